"""The training loop, checkpoints and averages that all trainers share."""
