"""Rows of runs for tests, with defaults for everything. Nothing here loads tensors."""

import itertools
from typing import Any

from distillation.models import Run
from generation.models import Release
from tests.factories import make_release

_numbers = itertools.count(1)


def make_run(*, teacher: Release | None = None, **fields: Any) -> Run:
    """A queued run of a teacher of its own."""
    number = next(_numbers)
    return Run.objects.create(
        name=fields.pop("name", f"student-{number}"),
        recipe=fields.pop("recipe", {"recipe": "starter-1step"}),
        teacher=teacher or make_release(name=f"teacher-{number}", kind="teacher"),
        **fields,
    )
