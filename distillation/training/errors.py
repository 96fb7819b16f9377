"""Errors of training; each message says what to do."""

from pathlib import Path


class TrainingError(Exception):
    """A training cannot continue."""


class TrainingDiverged(TrainingError):
    """A loss became infinite or not a number."""

    def __init__(self, step: int, loss: str, value: float) -> None:
        super().__init__(
            f"The loss {loss!r} was {value} in step {step}. Nothing was saved from that step on. "
            "Lower the learning rate in the recipe and train again."
        )
        self.step = step
        self.loss = loss


class CheckpointUnusable(TrainingError):
    """A checkpoint that cannot be resumed; the message names the file."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(
            f"{path} {reason}. To restart this training, delete it; "
            "to keep it, put back the code and the recipe that wrote it."
        )
        self.path = path


class TeacherRefused(TrainingError):
    """A teacher that cannot be distilled; the message names the file or the field, and what is accepted."""


class RecipeRefused(TrainingError):
    """A recipe that contradicts itself, its teacher or its catalogue; the message names the field."""
