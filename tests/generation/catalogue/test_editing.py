"""Edits of prompt variants: status with undo, tags, and their entries in the audit log."""

import pytest

from generation.catalogue import editing
from generation.errors import InvalidRequest, PromptInvalid
from generation.models import AuditEntry, PromptVariant
from tests.factories import make_variant

pytestmark = pytest.mark.django_db

Status = PromptVariant.Status
EVERY = PromptVariant.objects.all()


def statuses() -> dict[str, str]:
    return dict(EVERY.values_list("slug", "status"))


def test_a_change_of_status_is_undone_for_variants_not_changed_since():
    for slug, status in (
        ("one", "active"),
        ("two", "draft"),
        ("three", "archived"),
        ("four", "active"),
    ):
        make_variant(slug=slug, status=status)

    change = editing.set_status(EVERY, Status.ARCHIVED)
    assert change.count == 3 and set(statuses().values()) == {"archived"}
    assert change.entry is not None and change.entry.subject == "3 prompt variants"
    editing.edit("four", status="draft")

    assert editing.undo(change.entry) == 2
    assert statuses() == {"one": "active", "two": "draft", "three": "archived", "four": "draft"}


def test_a_change_without_effect_has_no_audit_entry():
    make_variant()
    assert editing.set_status(EVERY, Status.ACTIVE) == editing.Change(0)
    assert editing.change_tags(EVERY, add=["red"]).count == 1
    assert editing.change_tags(EVERY, add=["red"]) == editing.Change(0)
    assert AuditEntry.objects.count() == 1


def test_tags_are_added_and_removed_and_must_not_contradict_each_other():
    make_variant(slug="one", tags=["glass", "red"])
    make_variant(slug="two", tags=["clay"])

    editing.change_tags(EVERY, add=["vase"], remove=["red"])
    with pytest.raises(PromptInvalid, match="contradict"):
        editing.change_tags(EVERY, add=["not-clay"])

    assert dict(EVERY.values_list("slug", "tags")) == {
        "one": ["glass", "vase"],
        "two": ["clay", "vase"],
    }


def test_an_entry_without_previous_statuses_cannot_be_undone():
    make_variant()
    change = editing.change_tags(EVERY, add=["red"])
    assert change.entry is not None
    with pytest.raises(InvalidRequest, match="cannot be undone"):
        editing.undo(change.entry)
