"""Context of a prompt variant's page: pictures by seed and release, quality and faults by release, jobs."""

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from django.db.models import Case, Count, F, Func, OuterRef, Q, Subquery, TextField, Value, When
from django.urls import reverse

from generation.admin import pictures, variant_columns
from generation.catalogue import unknown_words
from generation.catalogue.standing import Overview
from generation.engine.proportions import Share
from generation.models import Coverage, Image, Job, PromptVariant, Quality, Release
from generation.releases import quality
from generation.releases.quality import Judged

MAX_IMAGES = 300  # latest ones that are searched for equal seeds
MAX_SEEDS = 4
MAX_RELEASES = 12
IN_COLUMNS = 5  # releases with a column of pictures
MAX_JOBS = 8


# URLs of pictures without a job, by release and seed.
Further = Mapping[Release, Mapping[int, str]]


def of(
    variant: Any, overview: Overview, *, waits: str, may_see: bool, further: Further
) -> dict[str, Any]:
    """Return the context of an annotated variant's page. may_see: whether the user may see jobs and pictures."""
    releases = _releases(variant)
    faults = _faults(variant) if may_see else {}
    unknown = overview.vocabulary.unknown(variant.text)
    found: dict[str, Any] = {
        "text": variant.text,
        "served": variant_columns.served(overview, variant, waits),
        "right": variant_columns.right(
            overview.serving.judged([variant]).get(variant.normalized_text),
            variant.floor,
            variant.slug,
        ),
        "unknown": unknown_words.sentence(unknown) if unknown else "",
        "releases": [_row(release, variant, faults) for release in releases],
        "may_see": may_see,
    }
    return found | (_pictures(variant, further) | _jobs(variant) if may_see else {})


# --- by release -----------------------------------------------------------------------------------
def _releases(variant: PromptVariant) -> list[Any]:
    """Return the releases that can make the variant, ones in service first, each with its counts."""
    made_for = Coverage.objects.filter(release=OuterRef("pk"), slug=variant.slug)
    judged = Quality.objects.filter(release=OuterRef("pk"), normalized_text=variant.normalized_text)
    fields = ("evaluated", "evaluated_right", "judged", "judged_right")
    rows = Release.objects.annotate(
        made_for=Subquery(made_for.values("normalized_text")[:1], output_field=TextField()),
        **{field: Subquery(judged.values(field)[:1]) for field in fields},
    )
    known = rows.filter(Q(covers_all=True) | Q(made_for__isnull=False) | Q(judged__isnull=False))
    is_served = Case(When(status__in=Release.SERVED, then=Value(0)), default=Value(1))
    return list(known.order_by(is_served, "status", "kind", "-registered_at")[:MAX_RELEASES])


def _row(release: Any, variant: PromptVariant, faults: dict[int, str]) -> dict[str, Any]:
    right, total = (
        (release.evaluated_right or 0) + (release.judged_right or 0),
        (release.evaluated or 0) + (release.judged or 0),
    )
    if release.covers_all:
        covers = "every text"
    elif release.made_for is None:
        covers = "no"
    else:
        covers = "yes" if release.made_for in ("", variant.normalized_text) else "another text"
    return {
        "name": release.name,
        "url": reverse("admin:generation_release_change", args=[release.pk]),
        "badge": pictures.badge(release.status),
        "covers": covers,
        "evaluated": _of(release.evaluated_right, release.evaluated),
        "judged": _of(release.judged_right, release.judged),
        "right": variant_columns.right(
            Judged(Share(right, total)) if total else None, quality.floor(variant, release)
        ),
        "faults": faults.get(release.pk, "–"),
    }


def _of(right: int | None, total: int | None) -> str:
    return f"{right} of {total}" if total else "–"


def _faults(variant: PromptVariant) -> dict[int, str]:
    """Return by release the failing bits of judged images, most frequent first."""
    rejected = Image.objects.filter(job__variant=variant, is_accepted=False).order_by()
    rows = rejected.annotate(bit=Func(F("failing"), function="unnest"))
    found: dict[int, list[str]] = defaultdict(list)
    counted = rows.values("job__release", "bit").annotate(count=Count("pk"))
    for row in counted.order_by("-count", "bit"):
        found[row["job__release"]].append(f"{row['bit']} ({row['count']})")
    return {release: ", ".join(bits) for release, bits in found.items()}


# --- pictures -------------------------------------------------------------------------------------
def _pictures(variant: PromptVariant, further: Further) -> dict[str, Any]:
    """Return pictures of the current text for the seeds that most releases share. Columns: teacher, student, others."""
    images = (
        Image.objects.filter(job__variant=variant, job__embedding__revision=variant.revision)
        .select_related("job__release")
        .defer("job__release__manifest")
        .order_by("-job__created_at", "index")[:MAX_IMAGES]
    )
    by_seed: dict[int, dict[int, dict[str, Any]]] = defaultdict(dict)
    releases: dict[int, Release] = {}
    for image in images:
        release = image.job.release
        # The chosen try may have another seed than the first one.
        if image.tries == 1:
            by_seed[image.seed].setdefault(release.pk, _cell(image))
            releases.setdefault(release.pk, release)
    for release, urls in further.items():
        releases.setdefault(release.pk, release)
        for seed, url in urls.items():
            by_seed[seed].setdefault(release.pk, {"image": url, "release": release.name})
    columns = sorted(releases.values(), key=_in_order)[:IN_COLUMNS]
    shown = {release.pk for release in columns}
    seeds = sorted(by_seed, key=lambda seed: (-len(shown & by_seed[seed].keys()), seed))
    return {
        "columns": [
            {
                "name": release.name,
                "url": reverse("admin:generation_release_change", args=[release.pk]),
                "note": f"{release.kind}, {release.status}",
            }
            for release in columns
        ],
        "seeds": [
            (seed, [by_seed[seed].get(release.pk) for release in columns])
            for seed in seeds[:MAX_SEEDS]
        ],
    }


def _in_order(release: Release) -> tuple[bool, bool, float]:
    """Return a sort key: active releases first, the teacher before others, newer before older."""
    is_active = release.status in Release.SERVED
    is_teacher = release.kind == Release.Kind.TEACHER
    return not is_active, not is_teacher, -release.registered_at.timestamp()


def _cell(image: Image) -> dict[str, Any]:
    return {
        "image": pictures.link(image.pk, "full"),
        "job": reverse("admin:generation_job_change", args=[image.job_id]),
        "release": image.job.release.name,
        "failing": ", ".join(image.failing) if image.is_accepted is False else "",
    }


# --- jobs -----------------------------------------------------------------------------------------
def _jobs(variant: PromptVariant) -> dict[str, Any]:
    jobs = Job.objects.filter(variant=variant).order_by("-created_at", "-id")
    rows = jobs.select_related("release", "owner").defer("release__manifest")
    return {
        "jobs": [
            {
                "badge": pictures.badge(job.status),
                "url": reverse("admin:generation_job_change", args=[job.pk]),
                "created": pictures.when(job.created_at),
                "release": job.release.name,
                "owner": job.owner.get_username(),
                "pictures": pictures.thumbnails(
                    [image.pk for image in job.images.all()],
                    to=reverse("admin:generation_job_change", args=[job.pk]),
                ),
            }
            for job in rows.prefetch_related("images")[:MAX_JOBS]
        ],
        "all_jobs": f"{reverse('admin:generation_job_changelist')}?q={variant.slug}",
    }
