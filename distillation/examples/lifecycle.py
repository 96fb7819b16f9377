"""Life cycle of sources and examples: ingestion requests, decisions of people, selection for training, agreement.

Files are read in `ingestion`, images judged in `verdicts`.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog
from django.conf import settings
from django.db import transaction
from django.db.models import Exists, OuterRef, Q, QuerySet
from django.db.models.functions import Now
from django.utils import timezone

from distillation import notifications
from distillation.errors import DistillationRefused
from distillation.examples import sources as places
from distillation.models import Detector, Example, ImageSource, Verdict
from generation.access import audit
from generation.catalogue import text_rules
from generation.errors import PromptInvalid
from generation.models import PromptVariant

log = structlog.get_logger(__name__)

Override = Example.Override


# --- sources --------------------------------------------------------------------------------------
def rules() -> places.Rules:
    """Return the rules on what sources may read."""
    roots = settings.IMAGE_SOURCE_ROOTS or [Path(settings.DATA_DIR) / "sources"]
    return places.Rules(
        [Path(root) for root in roots],
        settings.IMAGE_SOURCE_BUCKETS,
        settings.IMAGE_SOURCE_PRIVATE_HOSTS,
    )


def check_url(url: str) -> None:
    """Check a URL without connecting. Raises DistillationRefused if `ingestion` would not open it."""
    try:
        places.check(url, rules())
    except places.PlaceUnusable as error:
        raise DistillationRefused(str(error)) from error


def folder_of(url: str) -> Path:
    """Return the local folder of a source. Raises DistillationRefused if it is outside of the roots."""
    try:
        return places.folder_of(url, rules())
    except places.PlaceUnusable as error:
        raise DistillationRefused(str(error)) from error


def check_tags(tags: Iterable[str], variants: Iterable[PromptVariant]) -> None:
    """Raise DistillationRefused if these tags and those of the variants contradict each other."""
    try:
        text_rules.tidy_tags([*tags, *(tag for variant in variants for tag in variant.tags)])
    except PromptInvalid as error:
        raise DistillationRefused(error.detail) from error


def add(
    name: str,
    url: str,
    *,
    tags: Sequence[str] = (),
    variants: Sequence[PromptVariant] = (),
) -> ImageSource:
    """Create a source and request its ingestion. Raises DistillationRefused."""
    check_url(url)
    check_tags(tags, variants)
    most = ImageSource._meta.get_field("name").max_length
    if most is not None and len(name) > most:
        raise DistillationRefused(
            f"The name of a source has at most {most} characters, not {name}."
        )
    with transaction.atomic():
        if ImageSource.objects.filter(name=name).exists():
            raise DistillationRefused(f"A source named {name} already exists. Give another name.")
        source = ImageSource.objects.create(name=name, url=url, tags=text_rules.tidy_tags(tags))
        source.variants.set(variants)
        audit.record("image_source_added", name, url=url, tags=", ".join(source.tags))
        log.info("image_source_added", source=name, url=url)
        request_ingestion(ImageSource.objects.filter(pk=source.pk))
    return source


def request_ingestion(sources: QuerySet[ImageSource]) -> int:
    """Request ingestion of the enabled sources by the distillation worker. Return their number."""
    asked = sources.order_by().filter(is_enabled=True).update(asked_at=timezone.now())
    if asked:
        log.info("image_sources_requested", count=asked)
        transaction.on_commit(notifications.curate, robust=True)
    return asked


def waiting() -> QuerySet[ImageSource]:
    """Return sources with a pending request and no lease, oldest first."""
    free = Q(lease_expires_at__isnull=True) | Q(lease_expires_at__lt=Now())
    return ImageSource.objects.filter(free, asked_at__isnull=False, is_enabled=True).order_by(
        "asked_at", "pk"
    )


def stated_bits(source: ImageSource) -> tuple[list[str], list[str]]:
    """Return (bits every image must show, bits none may show), from the tags of the source and its variants."""
    tags = {*source.tags, *(tag for variant in source.variants.all() for tag in variant.tags)}
    prefix = text_rules.NOT
    absent = {tag.removeprefix(prefix) for tag in tags if tag.startswith(prefix)}
    return sorted(tag for tag in tags if not tag.startswith(prefix)), sorted(absent)


# --- examples -------------------------------------------------------------------------------------
def override(examples: QuerySet[Example], decision: Override, *, by: Any) -> int:
    """Store a person's decision, which overrides all detectors; NONE removes it. Return the number of changes."""
    if decision not in Override.values:
        raise ValueError(f"{decision!r} is not one of {Override.values}.")
    rows = examples.order_by().filter(refusal="").exclude(override=decision)
    changed = rows.update(override=decision, overridden_by=by, overridden_at=timezone.now())
    log.info("examples_overridden", decision=str(decision), count=changed, by=str(by))
    return changed


def active_detector() -> Detector | None:
    """Return the active detector's row without registering or loading anything."""
    return Detector.objects.filter(status=Detector.Status.ACTIVE).first()


def accepted() -> QuerySet[Example]:
    """Return the examples that training may use: accepted by a person, or by the active detector unless overridden."""
    verdicts = Verdict.objects.filter(
        example=OuterRef("pk"), detector=active_detector(), is_accepted=True
    )
    return Example.objects.filter(
        Q(override=Override.ACCEPTED) | (Q(override=Override.NONE) & Exists(verdicts)),
        refusal="",
        source__is_enabled=True,
    )


def files_in_use(names: Sequence[str]) -> set[str]:
    """Return the stored files that an example refers to: `generation` must not remove them."""
    found = Example.objects.filter(file__in=names).order_by()
    return set(found.values_list("file", flat=True))


# --- how good the detector is ---------------------------------------------------------------------
@dataclass(frozen=True)
class Agreement:
    """Among images with the same decision by the detector: how many people judged, and how many of these agreed."""

    judged: int = 0
    agreed: int = 0

    @property
    def percent(self) -> float | None:
        return 100 * self.agreed / self.judged if self.judged else None

    def with_one(self, agrees: bool) -> "Agreement":
        return Agreement(self.judged + 1, self.agreed + agrees)


@dataclass(frozen=True)
class BitPrecision:
    """failed: images that failed on this bit; passed: accepted images that were required to have the bit."""

    bit: str
    failed: Agreement
    passed: Agreement


@dataclass(frozen=True)
class Precision:
    """Agreement with people's decisions. accepted, rejected: all images that the detector accepted or rejected."""

    accepted: Agreement
    rejected: Agreement
    bits: tuple[BitPrecision, ...]


def precision(detector: Detector) -> Precision:
    """Return the agreement of people with this detector version by bit; bits without data are left out."""
    verdicts = Verdict.objects.filter(detector=detector, example__refusal="").exclude(
        example__override=Override.NONE
    )
    overall = {True: Agreement(), False: Agreement()}
    failed: dict[str, Agreement] = {}
    passed: dict[str, Agreement] = {}
    fields = ("is_accepted", "failing", "present", "absent", "example__override")
    for is_accepted, failing, present, absent, decision in verdicts.values_list(*fields).iterator():
        agrees = (decision == Override.ACCEPTED) == is_accepted
        overall[is_accepted] = overall[is_accepted].with_one(agrees)
        counted, bits = (passed, {*present, *absent}) if is_accepted else (failed, {*failing})
        for bit in bits:
            counted[bit] = counted.get(bit, Agreement()).with_one(agrees)
    known = [bit for bit in detector.bits if bit in failed or bit in passed]
    rows = (
        BitPrecision(bit, failed.get(bit, Agreement()), passed.get(bit, Agreement()))
        for bit in known
    )
    return Precision(overall[True], overall[False], tuple(rows))
