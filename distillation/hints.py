"""Messages of distillation that may be lost: rows are the truth, and the sweep says the same again."""

from generation import hints


def wake() -> None:
    """There may be queued runs. Call after commit."""
    hints.send("distillation.wake", expires=60)
