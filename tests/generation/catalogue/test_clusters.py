"""Parts of the catalogue, with a real toy encoder and real embeddings in PostgreSQL."""

import numpy as np
import pytest
from django.conf import settings

from generation.catalogue import clusters, encoding
from generation.errors import EncoderUnavailable, InvalidRequest
from generation.models import AuditEntry, PromptVariant
from generation.releases import lifecycle as releases
from tests.factories import make_variant

pytestmark = pytest.mark.django_db

COLOURS = ("red", "blue", "green")
THINGS = ("glass vase", "metal bowl", "clay cube", "wooden cup")


@pytest.fixture
def variants() -> list[PromptVariant]:
    """Encoded variants of the active teacher, and a draft."""
    from tests import tiny

    encoding._encoders.clear()
    folder = settings.RELEASES_ROOT / "tiny"
    folder.parent.mkdir(parents=True)
    tiny.make_tiny_release(folder)
    releases.activate(releases.register(folder))
    made = [
        make_variant(text=f"a {colour} {thing} on a table", tags=[colour, thing.split()[1]])
        for colour in COLOURS
        for thing in THINGS
    ]
    make_variant(text="a draft", status="draft")
    encoding.encode_missing()
    return made


def tagged(name: str) -> set[int]:
    return set(PromptVariant.objects.filter(tags__contains=[name]).values_list("pk", flat=True))


def test_vectors_around_different_centres_are_in_different_parts():
    generator = np.random.default_rng(0)
    centres = generator.normal(size=(4, 32))
    own = np.repeat(np.arange(4), (40, 30, 20, 10))
    vectors = (centres[own] + 0.1 * generator.normal(size=(100, 32))).astype(np.float32)

    labels, found = clusters.split(vectors, 4)

    assert {tuple(set(labels[own == part])) for part in range(4)} == {(0,), (1,), (2,), (3,)}
    assert np.abs(found[labels] - centres[own]).max() < 0.2
    assert (clusters.split(vectors, 4)[0] == labels).all()


def test_equal_vectors_cannot_be_split():
    with pytest.raises(InvalidRequest, match="too similar"):
        clusters.split(np.ones((10, 4), np.float32), 3)


def test_each_active_variant_is_in_one_part_the_largest_first(variants):
    parts = clusters.find(3)

    assert [part.name for part in parts] == ["part-1", "part-2", "part-3"]
    sizes = [len(part.variants) for part in parts]
    assert sizes == sorted(sizes, reverse=True) and min(sizes) > 0
    assert sorted(pk for part in parts for pk in part.variants) == [row.pk for row in variants]
    assert clusters.find(3) == parts
    for part in parts:
        tag, here, total = part.tags[0]
        assert here == sum(tag in row.tags for row in variants if row.pk in part.variants)
        assert total == sum(tag in row.tags for row in variants)
        texts = {row.text for row in variants if row.pk in part.variants}
        assert set(part.texts) <= texts and len(part.texts) == min(3, len(texts))


def test_tags_of_parts_replace_those_of_earlier_ones(variants):
    old = make_variant(text="an old one", status="archived", tags=["part-9", "part-time"])

    assert clusters.write(clusters.find(4)) == 13
    assert all(len(tagged(f"part-{number}")) > 0 for number in range(1, 5))
    assert PromptVariant.objects.get(pk=old.pk).tags == ["part-time"]
    parts = clusters.find(2)
    clusters.write(parts)
    assert [tagged(part.name) for part in parts] == [set(part.variants) for part in parts]
    assert not tagged("part-3") and not tagged("part-4")
    assert clusters.write(parts) == 0
    assert all({"part-1", "part-2"}.isdisjoint(dict.fromkeys(p.tags)) for p in clusters.find(2))
    assert {row.tags[0] for row in PromptVariant.objects.filter(status="active")} == set(COLOURS)
    assert AuditEntry.objects.filter(action="variants_tagged").exists()


@pytest.mark.parametrize("count", [1, 13])
def test_a_number_of_parts_that_is_not_possible_is_refused(variants, count):
    with pytest.raises(InvalidRequest, match="from 2 to 12"):
        clusters.find(count)


def test_without_an_encoder_the_embeddings_cannot_be_read():
    with pytest.raises(EncoderUnavailable, match="No text encoder"):
        clusters.find(2)
