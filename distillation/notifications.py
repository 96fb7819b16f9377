"""Celery messages of distillation. They may be lost: rows are the truth, and the sweep sends them again."""

from generation.infra import notifications


def wake() -> None:
    """Send a message that there may be queued runs. Call after commit."""
    notifications.send("distillation.wake", expires=60)


def curate() -> None:
    """Send a message that there may be sources to read. Call after commit."""
    notifications.send("distillation.curate", expires=60)
