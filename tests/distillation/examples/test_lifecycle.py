"""Ingestion requests, decisions of people, selection for training, agreement with the detector."""

from datetime import timedelta

import pytest
from django.utils import timezone

from distillation import notifications
from distillation.errors import DistillationRefused
from distillation.examples import lifecycle as examples
from distillation.examples.lifecycle import Agreement, Override
from distillation.models import Example, ImageSource
from generation.models import AuditEntry
from tests.distillation.example_factories import (
    make_detector,
    make_example,
    make_source,
    make_verdict,
)
from tests.factories import make_user, make_variant

pytestmark = pytest.mark.django_db


# --- sources --------------------------------------------------------------------------------------
def test_a_new_source_waits_for_ingestion_and_notifies_a_worker(django_capture_on_commit_callbacks):
    variant = make_variant(tags=["vase"])
    with django_capture_on_commit_callbacks() as callbacks:
        source = examples.add("field", "vases", tags=["red", "red"], variants=[variant])
    assert callbacks.count(notifications.curate) == 1
    assert AuditEntry.objects.get(action="image_source_added").subject == "field"
    assert (source.tags, list(source.variants.all())) == (["red"], [variant])
    assert list(examples.waiting()) == [source]
    with pytest.raises(DistillationRefused, match="already"):
        examples.add("field", "vases")


@pytest.mark.parametrize(
    ("url", "tags", "message"),
    [
        ("/etc", [], "IMAGE_SOURCE_ROOTS"),
        ("gopher://x/y", [], "not supported"),
        ("s3://anybodys/pictures", [], "IMAGE_SOURCE_BUCKETS"),
        ("vases", ["red", "not-red"], "contradict"),
        ("vases", ["not-vase"], "contradict"),
    ],
)
def test_a_source_that_could_never_be_used_is_refused(url, tags, message):
    with pytest.raises(DistillationRefused, match=message):
        examples.add("field", url, tags=tags, variants=[make_variant(tags=["vase"])])
    assert not ImageSource.objects.exists()


def test_waiting_sources_are_enabled_and_not_being_read():
    now = timezone.now()
    make_source(name="idle")
    make_source(name="read", asked_at=now, lease_expires_at=now + timedelta(minutes=1))
    make_source(name="off", asked_at=now, is_enabled=False)
    lost = make_source(name="lost", asked_at=now, lease_expires_at=now - timedelta(minutes=1))
    older = make_source(name="older", asked_at=now - timedelta(hours=1))
    assert list(examples.waiting()) == [older, lost]
    assert examples.request_ingestion(ImageSource.objects.all()) == 4


def test_the_stated_bits_are_the_tags_of_the_source_and_of_all_its_variants():
    source = make_source(
        tags=["winter", "not-blurred"],
        variants=[make_variant(tags=["vase"]), make_variant(tags=["red", "not-blue"])],
    )
    assert examples.stated_bits(source) == (["red", "vase", "winter"], ["blue", "blurred"])


# --- decisions of people --------------------------------------------------------------------------
def test_a_decision_stores_its_user_and_time_and_can_be_withdrawn():
    person, example = make_user(), make_example()
    refused = make_example(refusal="broken")
    rows = Example.objects.all()
    assert examples.override(rows, Override.REJECTED, by=person) == 1
    example.refresh_from_db()
    assert (example.override, example.overridden_by) == ("rejected", person)
    first = example.overridden_at
    assert examples.override(rows, Override.REJECTED, by=make_user(username="other")) == 0
    assert examples.override(rows, Override.NONE, by=person) == 1
    example.refresh_from_db()
    assert example.override == "" and example.overridden_at > first
    refused.refresh_from_db()
    assert refused.overridden_at is None
    with pytest.raises(ValueError, match="maybe"):
        examples.override(rows, "maybe", by=person)


# --- accepted examples ----------------------------------------------------------------------------
def test_examples_are_accepted_by_a_person_or_else_by_the_active_detector():
    active, older = make_detector(name="new"), make_detector(name="old")
    used = []
    for override, failing in (("", ()), ("accepted", ()), ("accepted", ("vase",))):
        example = make_example(override=override)
        make_verdict(example, detector=active, failing=failing)
        used.append(example)
    used.append(make_example(override="accepted"))  # without a verdict
    for override, failing in (("", ("vase",)), ("rejected", ()), ("rejected", ("vase",))):
        example = make_example(override=override)
        make_verdict(example, detector=active, failing=failing)
        make_verdict(example, detector=older)
    make_verdict(make_example(), detector=older)
    make_example()
    make_example(refusal="duplicate", override="accepted")
    off = make_source(name="off", is_enabled=False)
    make_example(source=off, override="accepted")
    assert set(examples.accepted()) == set(used)


def test_without_a_detector_only_people_accept():
    example = make_example(override="accepted")
    make_example()
    assert list(examples.accepted()) == [example]


# --- agreement ------------------------------------------------------------------------------------
def test_precision_counts_by_bit_how_often_people_decided_as_the_detector_did():
    detector = make_detector(bits=("vase", "bowl", "red"))
    stated = {"present": ["vase"], "absent": ["red"]}
    for override, failing in (
        ("rejected", ["vase"]),
        ("rejected", ["vase", "red"]),
        ("accepted", ["vase"]),
        ("accepted", []),
        ("accepted", []),
        ("rejected", []),
        ("", ["vase"]),
        ("", []),
    ):
        make_verdict(make_example(override=override), detector=detector, failing=failing, **stated)
    make_verdict(
        make_example(override="accepted"), detector=make_detector(name="other"), failing=["bowl"]
    )

    found = examples.precision(detector)
    assert (found.accepted, found.rejected) == (Agreement(3, 2), Agreement(3, 2))
    vase, red = found.bits
    assert (vase.bit, vase.failed, vase.passed) == ("vase", Agreement(3, 2), Agreement(3, 2))
    assert (red.bit, red.failed, red.passed) == ("red", Agreement(1, 1), Agreement(3, 2))
    assert red.failed.percent == 100 and vase.failed.percent == pytest.approx(200 / 3)
    assert Agreement().percent is None
