"""`manage.py run`: the plan of a run."""

from io import StringIO

import pytest
from django.core.management import call_command

from distillation.models import Run
from tests.factories import make_release, make_variant

pytestmark = pytest.mark.django_db


def test_a_dry_run_describes_a_run_without_starting_it():
    make_release(name="teacher-1", kind="teacher")
    make_variant(slug="green-mug", text="a green mug")
    output = StringIO()
    call_command("run", "start", "--dry-run", "--recipe", "rehearsal", "--anew", stdout=output)
    for part in (
        "Would start: A run of the recipe rehearsal, from teacher-1, for 1 prompt variant, 1 of them new",
        "green-mug",
        "obstacle: The recipe is for teachers of 128 × 128 pixels",
        "obstacle: 1 prompt variant is not encoded yet.",
    ):
        assert part in output.getvalue(), output.getvalue()
    assert not Run.objects.exists()
