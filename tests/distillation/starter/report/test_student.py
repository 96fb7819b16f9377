"""The report has pictures of all prompt variants that a student covers, with their combinations."""

from pathlib import Path

import pytest

from distillation.starter import recipe
from distillation.starter.captions import catalogue
from distillation.starter.report import student
from generation.management.commands.bootstrap import SHIPPED


def test_the_shipped_student_makes_a_picture_of_each_combination_of_the_catalogue(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(student, "SEEDS_EACH", 1)
    folder = next(recipe.CATALOGUE.parent / name for name in SHIPPED if name.startswith("student"))
    pictures, combinations = student.make(folder, tmp_path, progress_bar=False)
    assert len(pictures) == len(combinations) == 256 and set(combinations) == set(catalogue())
    middle = pictures[:, :, 40:-40, 40:-40].float().mean(dim=(2, 3))  # [N, 3]
    warmth = middle[:, 0] - middle[:, 2]
    red, blue = ([one.colour == colour for one in combinations] for colour in ("red", "blue"))
    assert warmth[red].mean() > warmth[blue].mean() + 20
