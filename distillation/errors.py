"""What can go wrong in the app distillation, with what to do about it."""


class DistillationRefused(Exception):
    """A distillation cannot begin or go on; the message says why."""
