"""The starter: a small world of rendered photographs with captions, and a teacher trained on it."""
