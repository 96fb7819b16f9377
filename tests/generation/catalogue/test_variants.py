"""Prompt variants: changes, lookup, embedding states."""

import pytest
from django.db import transaction

from generation.catalogue import editing
from generation.catalogue import variants as catalogue
from generation.errors import PromptInvalid, VariantNotFound
from generation.models import Embedding, Job, PromptVariant
from tests.factories import (
    ENCODER,
    make_embedding,
    make_image,
    make_job,
    make_variant,
)

pytestmark = pytest.mark.django_db


# --- change ---------------------------------------------------------------------------------------
def test_a_new_variant_gets_a_slug_of_its_text_and_a_number_if_that_is_taken():
    first = catalogue.save(PromptVariant(text=" A  red vase"))
    second = catalogue.save(PromptVariant(text="a red, vase"))
    third = catalogue.save(PromptVariant(text="красная ваза"))

    assert (first.slug, first.text, first.normalized_text) == (
        "a-red-vase",
        "A red vase",
        "a red vase",
    )
    assert second.slug == "a-red-vase-2"
    assert third.slug


def test_a_changed_text_is_a_new_revision_and_anything_else_is_not():
    variant = catalogue.save(PromptVariant(text="a red vase"))
    variant.notes, variant.status = "for the shop", PromptVariant.Status.ARCHIVED
    assert catalogue.save(variant).revision == 1
    variant.text = "a red  jug"
    assert catalogue.save(variant).revision == 2
    variant.refresh_from_db()
    assert (variant.text, variant.normalized_text) == ("a red jug", "a red jug")


def test_notes_have_a_limit_and_existing_longer_ones_are_kept():
    with pytest.raises(PromptInvalid, match="5001 characters; at most 5000"):
        catalogue.save(PromptVariant(text="a blue vase", notes="x" * 5001))
    make_variant(slug="vase", text="a red vase", notes="x" * 6000)
    assert editing.edit("vase", tags=["glass"]).tags == ["glass"]
    with pytest.raises(PromptInvalid, match="at most 5000"):
        editing.edit("vase", notes="y" * 6000)


def test_the_text_of_images_changes_only_as_a_new_revision():
    embedding = make_embedding()
    make_image(job=make_job(embedding=embedding, status=Job.Status.SUCCEEDED))
    variant = embedding.variant
    old_text, variant.text = variant.text, "a blue glass jug"

    with pytest.raises(PromptInvalid, match="new revision"):
        catalogue.save(variant)
    assert PromptVariant.objects.get().text == old_text

    assert catalogue.save(variant, new_revision=True).revision == 2
    assert Embedding.objects.get().text == old_text  # the text that the images were made from


def test_a_stale_instance_cannot_revert_a_revision():
    variant = catalogue.save(PromptVariant(text="a red vase"))
    copy = PromptVariant.objects.get()
    variant.text = "a red jug"
    catalogue.save(variant)
    copy.text = "a red mug"
    assert catalogue.save(copy).revision == 3


def test_a_text_that_became_too_long_for_a_new_encoder_can_still_be_archived(encoder):
    variant = make_variant(slug="long", text="incomprehensibilities photosynthesised")
    variant.status = PromptVariant.Status.ARCHIVED
    assert catalogue.save(variant).status == "archived"


def test_a_taken_slug_is_refused():
    make_variant(slug="vase", text="a red vase")
    with pytest.raises(PromptInvalid, match="slug “vase” is already in use") as refused:
        catalogue.save(PromptVariant(slug="vase", text="a blue vase"))
    assert refused.value.parameter == "slug"


# --- the message to the encode worker -------------------------------------------------------------
@pytest.mark.django_db(transaction=True)
def test_a_transaction_requests_encoding_once_for_many_variants(redis_server):
    with transaction.atomic():
        for colour in ("red", "green", "blue"):
            catalogue.save(PromptVariant(text=f"a {colour} vase"))
        assert redis_server.llen("encode") == 0
    assert redis_server.llen("encode") == 1


@pytest.mark.django_db(transaction=True)
def test_a_save_after_a_rollback_requests_encoding(redis_server):
    with transaction.atomic():
        with pytest.raises(RuntimeError), transaction.atomic():
            catalogue.save(PromptVariant(text="a red vase"))
            raise RuntimeError
        catalogue.save(PromptVariant(text="a blue vase"))
    assert redis_server.llen("encode") == 1


@pytest.mark.django_db(transaction=True)
def test_an_inactive_variant_requests_no_encoding_until_it_is_activated(redis_server):
    catalogue.save(PromptVariant(text="a red vase", status=PromptVariant.Status.DRAFT))
    assert redis_server.llen("encode") == 0
    assert editing.set_status(PromptVariant.objects.all(), PromptVariant.Status.ACTIVE).count == 1
    assert redis_server.llen("encode") == 1


# --- find -----------------------------------------------------------------------------------------
def test_a_variant_is_found_by_slug_and_by_its_text_in_any_spelling():
    variant = make_variant(slug="vase", text="a red vase")
    assert catalogue.find(slug="vase") == variant
    assert catalogue.find(text="A  RED vase") == variant


@pytest.mark.parametrize(
    "wanted", [{"slug": "jug"}, {"text": "a jug"}, {"slug": ""}, {"text": "a\0"}]
)
def test_a_text_outside_the_catalogue_is_not_found(wanted):
    make_variant(slug="vase", text="a red vase")
    with pytest.raises(VariantNotFound):
        catalogue.find(**wanted)


@pytest.mark.parametrize("status", ["draft", "archived"])
def test_a_variant_that_is_not_active_is_not_served_and_the_error_has_the_reason(status):
    make_variant(slug="vase", text="a red vase", status=status)
    with pytest.raises(VariantNotFound, match=f"“vase” is {status}, not active"):
        catalogue.find(slug="vase")


# --- states ---------------------------------------------------------------------------------------
def states(*encoders: str) -> dict[str, str | None]:
    rows = catalogue.with_states(PromptVariant.objects.all(), encoders or [ENCODER])
    return dict(rows.values_list("slug", "embedding_state"))


def test_every_variant_has_one_state_and_a_failed_one_its_reason():
    make_embedding(variant=make_variant(slug="encoded"))
    make_variant(slug="pending")
    stale = make_variant(slug="stale")
    make_embedding(variant=stale)
    PromptVariant.objects.filter(pk=stale.pk).update(revision=2)
    make_embedding(variant=make_variant(slug="failed"), error="It has 99 tokens.")
    make_embedding(variant=make_variant(slug="again"), error=catalogue.ENCODE_AGAIN)
    make_variant(slug="draft", status="draft")

    assert states() == {
        "encoded": "encoded",
        "pending": "pending",
        "stale": "stale",
        "failed": "failed",
        "again": "pending",
        "draft": None,
    }
    failed = catalogue.with_states(PromptVariant.objects.all(), [ENCODER]).get(slug="failed")
    assert failed.embedding_reason == "It has 99 tokens."
    counts = catalogue.count_states([ENCODER])
    assert counts == {"encoded": 1, "pending": 2, "stale": 1, "failed": 1}


def test_a_changed_encoder_makes_embeddings_stale_and_a_second_one_leaves_them_unfinished():
    make_embedding(variant=make_variant(slug="vase"))
    assert states("f" * 64) == {"vase": "stale"}
    assert states(ENCODER, "f" * 64) == {"vase": "pending"}
    assert states(ENCODER) == {"vase": "encoded"}


def test_without_an_encoder_in_use_nothing_counts_as_encoded():
    make_variant(slug="vase")
    assert dict(
        catalogue.with_states(PromptVariant.objects.all(), []).values_list(
            "slug", "embedding_state"
        )
    ) == {"vase": "pending"}


def test_the_states_of_many_variants_cost_one_query(django_assert_num_queries):
    for number in range(5):
        make_embedding(variant=make_variant(slug=f"v{number}"))
    with django_assert_num_queries(1):
        rows = catalogue.with_states(PromptVariant.objects.all(), [ENCODER])
        assert [row.embedding_state for row in rows] == ["encoded"] * 5


def test_missing_lists_unencoded_variants_without_permanent_failures():
    make_embedding(variant=make_variant(slug="done"))
    make_embedding(variant=make_variant(slug="hopeless"), error="It has 99 tokens.")
    make_embedding(
        variant=make_variant(slug="later"), error=f"{catalogue.ENCODER_UNAVAILABLE}no such folder"
    )
    make_variant(slug="draft", status="draft")
    fresh = make_variant(slug="fresh")

    assert [row.slug for row in catalogue.missing(ENCODER)] == ["later", "fresh"]
    assert [row.slug for row in catalogue.missing(ENCODER, 1)] == ["later"]
    assert list(catalogue.missing(ENCODER, after=fresh.pk)) == []


def test_encode_again_marks_failed_and_damaged_rows_and_leaves_sound_ones(encoder):
    sound = make_embedding(variant=make_variant(slug="sound"))
    damaged = make_embedding(variant=make_variant(slug="damaged"))
    failed = make_embedding(variant=make_variant(slug="failed"), error="It has 99 tokens.")
    import hashlib

    sound.sha256 = hashlib.sha256(sound.data).hexdigest()
    sound.save()

    assert catalogue.encode_again(PromptVariant.objects.all()) == 2

    for row in (sound, damaged, failed):
        row.refresh_from_db()
    assert not sound.error and sound.data
    assert damaged.error == failed.error == catalogue.ENCODE_AGAIN
    assert damaged.data is None and damaged.sha256  # what the new bytes are compared with
