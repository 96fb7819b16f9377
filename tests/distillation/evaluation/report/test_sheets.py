from pathlib import Path

import pytest
import torch
from PIL import Image

from distillation.evaluation.pictures import Album
from distillation.evaluation.report import sheets
from distillation.evaluation.report.sheets import GAP, PARTING, Row


def pictures(*values: int) -> torch.Tensor:
    return torch.stack([torch.full((3, 32, 32), value, dtype=torch.uint8) for value in values])


def test_pictures_lie_side_by_side_under_their_title(tmp_path: Path):
    sheets.write(tmp_path / "sheet.webp", [Row("two", pictures(0, 128), ("dark\nfar", "grey"))])
    with Image.open(tmp_path / "sheet.webp") as sheet:
        assert sheet.width == 2 * 32 + 3 * GAP
        top = sheet.height - (2 * (13 + GAP) + GAP) - 16  # the middle of the pictures
        dark, grey = (sheet.getpixel((GAP + 16 + n * (32 + GAP), top)) for n in range(2))
        assert max(dark) < 10 and all(abs(value - 128) < 8 for value in grey)


def test_a_row_may_have_a_gap(tmp_path: Path):
    row = Row("", pictures(0, 0, 0), parted_at=2)
    sheets.write(tmp_path / "sheet.webp", [row])
    with Image.open(tmp_path / "sheet.webp") as sheet:
        assert sheet.width == 3 * 32 + 4 * GAP + PARTING
        second, third = (
            sheet.getpixel((left + 16, GAP + 16)) for left in (GAP + 36, GAP + 72 + 16)
        )
        between = sheet.getpixel((GAP + 2 * 36 + PARTING // 2, GAP + 16))
    assert max(second) < 10 and max(third) < 10 and min(between) > 245


def test_a_row_without_pictures_or_with_too_few_captions_is_refused(tmp_path: Path):
    path = tmp_path / "sheet.webp"
    with pytest.raises(ValueError, match="at least one"):
        sheets.write(path, [Row("none", pictures(1)[:0])])
    with pytest.raises(ValueError, match="caption for each"):
        sheets.write(path, [Row("two", pictures(1, 2), ("one",))])
    assert not path.exists()


@pytest.mark.parametrize("count", [1, 7, 8, 9, 40, 256])
def test_a_spread_has_different_rows_and_as_many_as_fit(count: int):
    found = sheets.spread(count)
    assert found == sorted(set(found)) and len(found) == min(sheets.ROWS, count)
    assert all(0 <= place < count for place in found)


def test_a_spread_is_not_in_step_with_a_periodic_catalogue():
    for period in (4, 8, 16, 32):
        assert len({place % period for place in sheets.spread(256)}) >= 3
    assert max(sheets.spread(256)) >= 192 and min(sheets.spread(256)) < 64


@pytest.mark.parametrize(("count", "new"), [(40, 3), (40, 30), (9, 9), (4, 1), (8, 0)])
def test_new_prompts_are_shown_first_and_leave_some_places_to_the_others(count: int, new: int):
    of_new = list(range(count - new, count))
    found = sheets.chosen(count, of_new)
    assert len(found) == len(set(found)) == min(sheets.ROWS, count)
    first = min(new, sheets.ROWS - min(sheets.KNOWN, count - new))
    assert set(found[:first]) <= set(of_new) and not set(found[first:]) & set(of_new)


def test_a_release_that_does_not_cover_a_prompt_has_grey_places(tmp_path: Path):
    paths = []
    for value in (0, 255):
        paths.append(tmp_path / f"{value}.png")
        Image.new("RGB", (32, 32), (value, value, value)).save(paths[-1])
    teacher, candidate = (Album(None, ((path, path),)) for path in paths)  # type: ignore[arg-type]
    albums = {"teacher": teacher, "active": None, "candidate": candidate}
    (row,) = sheets.rows(albums, ["a vase"], numbers=[0], new=[0])
    assert row.title == "new: a vase"
    assert [int(picture.float().mean()) for picture in row.pictures] == [0, 0, 230, 230, 255, 255]
    assert "active: not covered" in row.captions
