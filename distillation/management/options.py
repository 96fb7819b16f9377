"""Base class and options of the commands that distil, and the error for a missing library."""

import sys
from argparse import ArgumentParser
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from distillation.detector.errors import DetectorUnusable
from distillation.resumable.stages import StageError
from distillation.training.errors import TrainingError
from generation.engine.errors import EngineError
from generation.errors import GenerationError


class DistillationCommand(BaseCommand):
    """Command whose `refusals` are exceptions that become its error text."""

    refusals: tuple[type[Exception], ...] = (TrainingError, StageError, DetectorUnusable)

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            self.work(options)
        except self.refusals as error:
            raise CommandError(str(error)) from error
        except (GenerationError, EngineError) as error:
            raise CommandError(error.detail) from error

    def work(self, options: dict[str, Any]) -> None:
        """Run the command; an exception of `refusals` becomes its error."""
        raise NotImplementedError


@contextmanager
def required_libraries() -> Iterator[None]:
    """Exit and name the package to install if an import in the context fails: serving does not need these libraries."""
    try:
        yield
    except ModuleNotFoundError as error:
        sys.exit(
            f"Distilling needs {error.name}, which is not installed: pip install -r requirements.txt."
        )


def add_changes(parser: ArgumentParser) -> None:
    """Add the option --set. `overrides.parse` reads its values, `changes`."""
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        dest="changes",
        metavar="FIELD=VALUE",
        help="change a field of the recipe, such as structure.steps=100; repeatable",
    )


def add_judged_teacher(parser: ArgumentParser) -> None:
    """Add --teacher and --detector."""
    parser.add_argument(
        "--teacher", metavar="RELEASE", help="name of the teacher; default: the active one"
    )
    parser.add_argument(
        "--detector",
        metavar="DIR",
        default="",
        help="folder of the detector that checks images by the tags of their variants; default: DISTILLATION_DETECTOR, "
        "else the active detector if it fits the teacher, else the starter's for its teacher, else none",
    )
