"""The starter: a synthetic data set of rendered photographs with captions, and a teacher trained on it."""
