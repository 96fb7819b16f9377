"""Encoding of the catalogue with a real, toy-sized text encoder: results, refusals, recovery."""

import hashlib

import pytest
from django.conf import settings
from django.core.management import call_command

from generation.catalogue import encoding
from generation.catalogue import variants as catalogue
from generation.models import Embedding, PromptVariant
from generation.releases import lifecycle as releases
from tests.factories import make_job, make_variant

pytestmark = pytest.mark.django_db


@pytest.fixture
def release():
    from tests import tiny

    encoding._encoders.clear()
    folder = settings.RELEASES_ROOT / "tiny"
    folder.parent.mkdir(parents=True)
    tiny.make_tiny_release(folder)
    return releases.activate(releases.register(folder))


def test_every_active_variant_is_encoded_and_nothing_else(release):
    vase, jug = make_variant(text="a red vase"), make_variant(text="a blue jug")
    make_variant(text="a draft", status="draft")
    seen: list[int] = []

    assert encoding.encode_missing(on_progress=seen.append) == 0

    rows = {row.variant_id: row for row in Embedding.objects.all()}
    assert set(rows) == {vase.pk, jug.pk}
    assert sum(seen) == 2
    row = rows[vase.pk]
    assert (row.text, row.revision, row.error) == ("a red vase", 1, "")
    assert row.encoder_fingerprint == release.encoder_fingerprint
    assert row.dtype == "float16"
    assert row.shape == release.manifest["embedding_shape"]
    assert len(row.data) == row.shape[0] * row.shape[1] * 2
    assert row.sha256 == hashlib.sha256(row.data).hexdigest()
    assert row.sha256 != rows[jug.pk].sha256


def test_batches_are_small_and_the_time_is_bounded(release, monkeypatch):
    monkeypatch.setattr(encoding, "BATCH", 2)
    for number in range(5):
        make_variant(text=f"vase {number}")
    seen: list[int] = []

    assert encoding.encode_missing(seconds=0) == 5
    assert not Embedding.objects.exists()
    assert encoding.encode_missing(on_progress=seen.append) == 0
    assert seen == [2, 2, 1]


def test_a_text_that_is_too_long_fails_alone_with_the_reason_and_is_not_retried(release):
    make_variant(slug="vase", text="a red vase")
    make_variant(slug="long", text=" ".join(["unfathomableness"] * 12))

    assert encoding.encode_missing() == 0

    long = Embedding.objects.get(variant__slug="long")
    assert "tokens" in long.error and long.data is None
    assert Embedding.objects.get(variant__slug="vase").data
    seen: list[int] = []
    encoding.encode_missing(on_progress=seen.append)
    assert seen == []


def test_a_new_revision_is_encoded_and_the_old_embedding_stays(release):
    variant = catalogue.save(PromptVariant(text="a red vase"))
    encoding.encode_missing()
    variant.text = "a blue vase"
    catalogue.save(variant)
    encoding.encode_missing()
    texts = Embedding.objects.order_by("revision").values_list("revision", "text")
    assert list(texts) == [(1, "a red vase"), (2, "a blue vase")]


def test_a_damaged_embedding_is_restored_in_place_with_the_same_bytes(release):
    variant = make_variant(text="a red vase")
    encoding.encode_missing()
    sound = Embedding.objects.get()
    make_job(
        variant=variant, embedding=sound, release=release
    )  # so that the embedding cannot be deleted
    Embedding.objects.update(data=b"\0" * len(sound.data))

    assert catalogue.encode_again(PromptVariant.objects.all()) == 1
    encoding.encode_missing()

    again = Embedding.objects.get()
    assert (again.pk, again.sha256, bytes(again.data)) == (
        sound.pk,
        sound.sha256,
        bytes(sound.data),
    )
    assert again.error == ""


def test_a_missing_encoder_is_an_error_of_every_variant_until_it_returns(release):
    make_variant(slug="vase", text="a red vase")
    folder = releases.folder(release)
    away = folder.with_name("away")
    folder.rename(away)

    assert encoding.encode_missing() == 0  # nothing that an immediate retry would repair
    row = catalogue.with_states(PromptVariant.objects.all()).get()
    assert row.embedding_state == "failed"
    assert row.embedding_reason.startswith(catalogue.ENCODER_UNAVAILABLE)

    away.rename(folder)
    assert encoding.encode_missing() == 0
    assert catalogue.with_states(PromptVariant.objects.all()).get().embedding_state == "encoded"
    assert Embedding.objects.count() == 1


def test_an_encoder_that_is_not_the_registered_one_encodes_nothing(release):
    make_variant(text="a red vase")
    release.encoder_fingerprint = "f" * 64
    release.save()

    encoding.encode_missing()

    assert not Embedding.objects.filter(error="").exists()
    assert "registered with ffffffffffff" in Embedding.objects.get().error


def test_outcomes_are_counted(release, redis_server):
    make_variant(text="a red vase")
    encoding.encode_missing()
    counted = {
        field: value
        for field, value in redis_server.hgetall("retort:metrics").items()
        if "retort_encoded_total" in field
    }
    assert [
        float(value) for field, value in counted.items() if "encoded" in field.split("_total")[1]
    ] == [1]


def test_the_command_encodes_in_its_own_process_and_reports_the_states(release, capsys):
    make_variant(text="a red vase")
    call_command("catalogue", "encode")
    printed = capsys.readouterr()
    assert "encoded: 1" in printed.out
    assert "1/1" in printed.err
