"""What an evaluation found at each prompt is stored with the releases that it judged."""

import pytest

from distillation.reports import prompt_quality
from generation.models import Quality
from tests.distillation.reporting import figures, write_stage
from tests.factories import make_release

pytestmark = pytest.mark.django_db


def test_student_teacher_and_replaced_release_get_their_counts_of_each_judged_prompt() -> None:
    for name, kind in (("new", "student"), ("old", "student"), ("t", "teacher")):
        make_release(name=name, kind=kind)
    found = figures()
    sides = {"teacher": found["teacher"] | {"name": "t"}}
    of_new = found | sides | {"student": found["student"] | {"name": "new"}}
    of_old = figures(new="mug") | sides | {"student": found["student"] | {"name": "old"}}
    made = {
        "evaluation": write_stage("evaluation-1", {"evaluation.json": of_new}),
        "incumbent": write_stage("incumbent-1", {"evaluation.json": of_old}),
    }

    prompt_quality.record(made)

    stored = Quality.objects.values_list("release__name", "normalized_text", "evaluated_right")
    # "a bowl" was not judged; 0.9 of 4 pictures are 4
    assert sorted(stored) == [
        ("new", "a mug", 4),
        ("new", "a vase", 2),
        ("old", "a vase", 2),
        ("t", "a mug", 4),
        ("t", "a vase", 4),
    ]
    assert set(Quality.objects.values_list("evaluated", flat=True)) == {4}


def test_a_run_without_an_evaluation_stores_nothing() -> None:
    prompt_quality.record({})
    assert not Quality.objects.exists()
