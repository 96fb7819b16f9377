"""A snapshot of the catalogue is read unchanged, and tags determine which bits must be present or absent."""

import pytest
import torch

from distillation.trainers import catalogue as catalogues
from distillation.trainers.catalogue import Catalogue, bits_of, read, write

BITS = ("red", "green", "cube", "ball", "ring", "shiny")
GROUPS = (2, 3, 1)


def made(**changes) -> Catalogue:
    values = {
        "slugs": ("red-cube", "ball"),
        "texts": ("a red cube", "a “ball”"),
        "prompt_embeds": torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(0)).half(),
        "encoder_fingerprint": "ab" * 32,
        **changes,
    }
    return Catalogue(**values)


def test_a_tag_of_a_group_makes_the_groups_other_bits_absent():
    stated, wanted = bits_of([{"red", "cube"}, {"ball"}, set()], BITS, GROUPS)
    assert wanted.int().tolist() == [[1, 0, 1, 0, 0, 0], [0, 0, 0, 1, 0, 0], [0] * 6]
    assert stated.int().tolist() == [[1, 1, 1, 1, 1, 0], [0, 0, 1, 1, 1, 0], [0] * 6]


def test_a_tag_that_is_no_bit_is_ignored():
    stated, wanted = bits_of([["summer", "shiny"]], BITS, GROUPS)
    assert stated.int().tolist() == wanted.int().tolist() == [[0, 0, 0, 0, 0, 1]]


def test_a_negated_bit_must_be_absent_and_leaves_the_others_open():
    tags = [["not-red"], ["not-shiny", "ball"], ["red", "not-green", "not-summer"]]
    stated, wanted = bits_of(tags, BITS, GROUPS)
    assert stated.int().tolist() == [[1, 0, 0, 0, 0, 0], [0, 0, 1, 1, 1, 1], [1, 1, 0, 0, 0, 0]]
    assert wanted.int().tolist() == [[0] * 6, [0, 0, 0, 1, 0, 0], [1, 0, 0, 0, 0, 0]]


@pytest.mark.parametrize("has_bits", [True, False])
def test_a_written_catalogue_is_read_unchanged(tmp_path, has_bits):
    stated, wanted = bits_of([["red"], ["ball"]], BITS, GROUPS)
    bits = {"stated": stated, "wanted": wanted} if has_bits else {}
    one = made(**bits)
    write(one, tmp_path / "new")
    other = read(tmp_path / "new")
    assert (other.slugs, other.texts) == (one.slugs, one.texts)
    assert other.encoder_fingerprint == one.encoder_fingerprint
    assert torch.equal(other.prompt_embeds, one.prompt_embeds)
    assert other.prompt_embeds.dtype == torch.float16
    if has_bits:
        assert torch.equal(other.stated, stated) and torch.equal(other.wanted, wanted)
        assert other.stated.dtype == torch.bool
    else:
        assert other.stated is None and other.wanted is None


def test_writing_again_replaces_the_catalogue_and_leaves_no_other_files(tmp_path):
    write(made(), tmp_path)
    write(made(texts=("other", "words")), tmp_path)
    assert read(tmp_path).texts == ("other", "words")
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {catalogues.INDEX, catalogues.TENSORS}


def test_rows_are_gathered_in_fp32():
    catalogue = made()
    found = catalogue.embeds(torch.tensor([1, 0, 1]))
    assert found.dtype == torch.float32
    assert torch.equal(found, catalogue.prompt_embeds[[1, 0, 1]].float())
    assert len(catalogue) == 2
