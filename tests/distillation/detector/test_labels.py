"""Reading of labelled folders, and errors with the line at fault."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from distillation.detector import labels
from distillation.detector.errors import LabelsUnusable
from distillation.detector.labels import UNKNOWN, Vocabulary
from tests.distillation.detector.folders import make_labelled

BITS = '{"groups": {"colour": ["red", "green"], "logo": ["logo"]}}'


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "bits.json").write_text(BITS)
    for name in ("a.png", "b.jpg", "c.webp"):
        Image.new("RGB", (40, 20), (200, 10, 10)).save(tmp_path / name)
    return tmp_path


def write(folder: Path, *lines: str, head: str = "file,tags") -> Path:
    (folder / "labels.csv").write_text("\n".join((head, *lines)) + "\n", encoding="utf-8-sig")
    return folder


def test_a_tag_of_a_group_makes_the_groups_other_bits_absent(folder):
    write(folder, 'a.png,"red,logo"', "b.jpg,not-logo", "c.webp,")
    found = labels.read(folder)
    assert found.truth(found.vocabulary).tolist() == [
        [1, 0, 1],
        [UNKNOWN, UNKNOWN, 0],
        [UNKNOWN, UNKNOWN, UNKNOWN],
    ]


def test_required_bits_are_present_in_good_pictures_and_open_or_absent_in_bad_ones(folder):
    write(
        folder, "a.png,red,,", "b.jpg,red,blurred,sharp", 'c.webp,red,"wrong colour",red',
        head="file,tags,defect,lacks",
    )  # fmt: skip
    found = labels.read(folder)
    vocabulary = Vocabulary((("red", "green"),)).extended(("sharp",))
    assert found.truth(vocabulary).tolist() == [[1, 0, 1], [1, 0, 0], [0, UNKNOWN, UNKNOWN]]


def test_pictures_of_any_format_are_cropped_to_the_middle_square(folder):
    found = labels.read(write(folder, "a.png,red", "b.jpg,red", "c.webp,red"))
    images = found.images(16)
    assert images.shape == (3, 3, 16, 16) and (images[:, 0] > 180).all()


def test_transparent_pictures_are_white_and_16_bit_ones_keep_their_brightness(folder):
    """As examples are read."""
    clear = Image.new("RGBA", (20, 20), (0, 0, 0, 0))
    clear.save(folder / "clear.png")
    Image.fromarray(np.full((20, 20), 0x4000, np.uint16)).save(folder / "deep.png")
    found = labels.read(write(folder, "clear.png,red", "deep.png,red")).images(8)
    assert found[0].unique().tolist() == [255] and found[1].unique().tolist() == [0x40]


def test_masks_number_objects_from_1(tmp_path):
    found = labels.read(make_labelled(tmp_path, 4))
    masks = found.masks(32)
    assert masks.shape == (4, 32, 32) and masks.unique().tolist() == [0, 1]


def test_the_split_depends_on_the_names_of_files(tmp_path):
    found = labels.read(make_labelled(tmp_path, 60))
    trained, held = found.split(0.3)
    assert 5 < len(held) < 30 and len(trained) + len(held) == 60
    more = labels.read(make_labelled(tmp_path, 80)).split(0.3)[1]
    assert {row.file for row in held.rows} <= {row.file for row in more.rows}


def test_parts_in_the_rows_are_used(folder):
    write(folder, "a.png,red,train", "b.jpg,green,held-out", head="file,tags,part")
    trained, held = labels.read(folder).split(0.5)
    assert [row.file for row in trained.rows] == ["a.png"]
    assert [row.file for row in held.rows] == ["b.jpg"]


@pytest.mark.parametrize(
    ("lines", "named"),
    [
        (["a.png,rde"], r"line 2: 'rde' is not a bit"),
        (["a.png,red", "gone.png,red"], r"line 3: there is no file gone.png"),
        (["../a.png,red"], r"line 2: ../a.png lies outside"),
        (['a.png,"red,green"'], r"line 2: green and red belong to one group"),
        (['a.png,"red,not-red"'], r"line 2: red is both present and absent"),
        (["a.png,red", "a.png,green"], r"line 3: a.png is already in line 2"),
        (["a.png,red,logo"], r"line 2: fields and columns differ"),
        ([], "names no picture"),
    ],
)
def test_an_invalid_row_is_refused_with_its_line(folder, lines, named):
    with pytest.raises(LabelsUnusable, match=named):
        labels.read(write(folder, *lines))


def test_columns_that_are_missing_or_unknown_are_named(folder):
    with pytest.raises(LabelsUnusable, match="column tags is missing"):
        labels.read(write(folder, "a.png", head="file"))
    with pytest.raises(LabelsUnusable, match="'labels' is not a column"):
        labels.read(write(folder, "a.png,red,x", head="file,tags,labels"))


def test_a_file_that_is_no_picture_is_named_when_it_is_read(folder):
    (folder / "a.png").write_bytes(b"no picture")
    found = labels.read(write(folder, "a.png,red"))
    with pytest.raises(LabelsUnusable, match=r"line 2: a.png cannot be read"):
        found.images(16)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("{", "bits.json"),
        ('{"groups": {"a": ["red", "red"]}}', "distinct"),
        ('{"groups": {"a": ["sharp"]}}', "sharp is learnt without labels"),
        ('{"groups": {"a": ["not-red"]}}', "cannot name a bit"),
        ('{"groups": {"a": ["red"]}, "needed": []}', "needed is not a field"),
    ],
)
def test_invalid_bits_are_refused(folder, text, named):
    (folder / "bits.json").write_text(text)
    with pytest.raises(LabelsUnusable, match=named):
        labels.read(write(folder, "a.png,red"))
