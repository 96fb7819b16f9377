"""Edits of prompt variants by people and API keys, each with an entry in the audit log. The rules are in `variants`."""

from collections.abc import Sequence
from dataclasses import dataclass

import structlog
from django.db import transaction
from django.db.models import Q, QuerySet
from django.db.models.functions import Now

from generation.access import audit
from generation.catalogue import text_rules
from generation.catalogue import variants as catalogue
from generation.errors import InvalidRequest, VariantNotFound
from generation.infra import database
from generation.models import AuditEntry, PromptVariant

log = structlog.get_logger(__name__)

Status = PromptVariant.Status
MANY = "variants_changed"  # action of an audit entry whose detail has the previous statuses
IMPORTED = "catalogue_imported"


@dataclass(frozen=True)
class Change:
    """Result of an edit. count: changed variants; entry: audit entry, None if nothing changed."""

    count: int
    entry: AuditEntry | None = None


def edit(
    slug: str,
    *,
    text: str | None = None,
    tags: Sequence[str] | None = None,
    status: str | None = None,
    notes: str | None = None,
    new_revision: bool = False,
) -> PromptVariant:
    """Change the given fields of the variant, which may have any status. Raises VariantNotFound, PromptInvalid."""
    with transaction.atomic():
        variant = PromptVariant.objects.select_for_update(no_key=True).filter(slug=slug).first()
        if variant is None:
            raise VariantNotFound(f"No prompt variant matches “{slug}”.", parameter="slug")
        for field, value in (("text", text), ("tags", tags), ("status", status), ("notes", notes)):
            if value is not None:
                setattr(variant, field, value)
        return catalogue.save(variant, new_revision=new_revision)


def set_status(variants: QuerySet[PromptVariant], status: PromptVariant.Status) -> Change:
    """Set the status of variants. `undo` reverts it."""
    with transaction.atomic():
        # NO KEY, here and below: inserting a job takes a KEY SHARE lock on its variant.
        other = variants.exclude(status=status).order_by("pk").select_for_update(no_key=True)
        before: dict[str, list[int]] = {}
        for pk, was in other.values_list("pk", "status"):
            before.setdefault(was, []).append(pk)
        ids = [pk for some in before.values() for pk in some]
        if not ids:
            return Change(0)
        _move(ids, status)
        entry = audit.record(MANY, named(len(ids)), status=status, before=before)
    return Change(len(ids), entry)


def undo(entry: AuditEntry) -> int:
    """Restore the previous status of variants that still have the status set by the change. Return how many.

    Raises InvalidRequest if the entry is not a change of status.
    """
    if entry.action != MANY or "before" not in entry.detail:
        raise InvalidRequest("This change cannot be undone. Change the prompt variants themselves.")
    count = 0
    with transaction.atomic():
        for status, ids in entry.detail["before"].items():
            same = PromptVariant.objects.filter(pk__in=ids, status=entry.detail["status"])
            count += set_status(same, Status(status)).count
    return count


def change_tags(
    variants: QuerySet[PromptVariant], *, add: Sequence[str] = (), remove: Sequence[str] = ()
) -> Change:
    """Add and remove tags. Raises PromptInvalid if a variant's tags would contradict each other."""
    added, dropped = text_rules.tidy_tags(add), set(text_rules.tidy_tags(remove))
    with transaction.atomic():
        changed, now = [], database.now()
        for variant in variants.order_by("pk").select_for_update(of=("self",), no_key=True):
            tags = text_rules.tidy_tags([*(t for t in variant.tags if t not in dropped), *added])
            if tags != variant.tags:
                variant.tags, variant.updated_at = tags, now
                changed.append(variant)
        if not changed:
            return Change(0)
        PromptVariant.objects.bulk_update(changed, ["tags", "updated_at"], batch_size=500)
        ids = [variant.pk for variant in changed]
        facts = {"added": added, "removed": sorted(dropped), "variants": ids}
        entry = audit.record("variants_tagged", named(len(ids)), **facts)
        log.info("variants_changed", tags=[*added, *dropped], count=len(ids))
    return Change(len(ids), entry)


def touched(entry: AuditEntry) -> Q:
    """Return the query condition for the prompt variants that this change modified."""
    before = entry.detail.get("before", {}).values()
    return Q(pk__in=[pk for some in before for pk in some] or entry.detail.get("variants", []))


def named(count: int) -> str:
    return f"{count} prompt variant{'' if count == 1 else 's'}"


def _move(ids: Sequence[int], status: PromptVariant.Status) -> None:
    PromptVariant.objects.filter(pk__in=ids).update(status=status, updated_at=Now())
    log.info("variants_changed", status=str(status), count=len(ids))
    if status == Status.ACTIVE:
        catalogue.publish_encode()
