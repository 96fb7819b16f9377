"""Filters and order of the gallery: words of the prompt, prompt variant, tag, day, favourites; newest or oldest."""

from dataclasses import dataclass
from datetime import date, datetime, time
from typing import Any
from urllib.parse import urlencode

from django.db.models import Exists, OuterRef, Q, QuerySet
from django.http import Http404
from django.utils import timezone
from rest_framework import serializers

from generation.api.serializers.shapes import Strict
from generation.api.views.jobs import owned
from generation.catalogue.text_rules import MAX_WORDS
from generation.engine.prompts.texts import normalize
from generation.models import Favourite, Job, PromptVariant
from generation.page.presentation import pictures
from generation.page.responses import PersonRequest, given

NEWEST, OLDEST = "newest", "oldest"  # values of order: which comes first
ENDED = (Job.Status.SUCCEEDED, Job.Status.FAILED)


class FilterQuery(Strict):
    """q: words of the prompt; since, until: days in UTC; favourites: only images that the user marked."""

    variant = serializers.SlugField()
    q = serializers.CharField()
    tag = serializers.CharField()
    since = serializers.DateField()
    until = serializers.DateField()
    favourites = serializers.BooleanField(default=False)
    order = serializers.ChoiceField([NEWEST, OLDEST], default=NEWEST)


@dataclass(frozen=True)
class Filter:
    """Filter and order of the gallery. variant: only pictures of this prompt."""

    q: str = ""
    tag: str = ""
    since: date | None = None
    until: date | None = None
    favourites: bool = False
    variant: PromptVariant | None = None
    is_oldest_first: bool = False

    @classmethod
    def read(cls, request: PersonRequest) -> "Filter":
        """Return the filter from a URL's query. Raises ValidationError, and Http404 for an unknown variant."""
        return cls.of(given(FilterQuery, request))

    @classmethod
    def of(cls, asked: dict[str, Any]) -> "Filter":
        slug = asked.get("variant")
        variant = None if slug is None else PromptVariant.objects.filter(slug=slug).first()
        if slug is not None and variant is None:
            raise Http404
        return cls(
            asked.get("q", ""),
            asked.get("tag", ""),
            asked.get("since"),
            asked.get("until"),
            asked["favourites"],
            variant,
            asked["order"] == OLDEST,
        )

    def __bool__(self) -> bool:
        return self != Filter()

    @property
    def values(self) -> dict[str, str]:
        """Return the URL parameters of this filter."""
        named = {
            "variant": self.variant.slug if self.variant else "",
            "q": self.q,
            "tag": self.tag,
            "since": self.since.isoformat() if self.since else "",
            "until": self.until.isoformat() if self.until else "",
            "favourites": "true" if self.favourites else "",
            "order": OLDEST if self.is_oldest_first else "",
        }
        return {name: value for name, value in named.items() if value}

    @property
    def suffix(self) -> str:
        """Return the URL's query for this filter, "" if it is empty."""
        return f"?{urlencode(self.values)}" if self else ""

    def jobs(self, request: PersonRequest) -> QuerySet[Job]:
        """Return the user's matching jobs in the gallery's order."""
        rows = owned(request).filter(status__in=ENDED, purged_at__isnull=True)
        if self.variant is not None:
            rows = rows.filter(variant=self.variant)
        for word in normalize(self.q).split()[:MAX_WORDS]:
            rows = rows.filter(variant__normalized_text__contains=word)
        if self.tag:
            rows = rows.filter(variant__tags__contains=[self.tag])
        if self.since:
            rows = rows.filter(created_at__gte=_at(self.since, time.min))
        if self.until:
            rows = rows.filter(created_at__lte=_at(self.until, time.max))
        if self.favourites:
            marked = Favourite.objects.filter(owner=request.user, image__job=OuterRef("pk"))
            rows = rows.filter(Exists(marked))
        order = ("created_at", "id") if self.is_oldest_first else ("-created_at", "-id")
        return rows.order_by(*order)

    def following(self, job: Job) -> Q:
        """Return the condition for jobs that come after this one in the gallery."""
        return _newer(job) if self.is_oldest_first else _older(job)

    def preceding(self, job: Job) -> Q:
        """Return the condition for jobs that come before this one in the gallery."""
        return _older(job) if self.is_oldest_first else _newer(job)

    def images(self, owner: Any) -> QuerySet[Any, Any]:
        """Return the matching images of the user."""
        found = pictures(owner)
        return found.filter(is_favourite=True) if self.favourites else found


def _at(day: date, moment: time) -> datetime:
    return datetime.combine(day, moment, timezone.get_default_timezone())


# The first condition is implied; an index serves it.
def _older(job: Job) -> Q:
    is_older = Q(created_at__lt=job.created_at) | Q(created_at=job.created_at, id__lt=job.id)
    return Q(created_at__lte=job.created_at) & is_older


def _newer(job: Job) -> Q:
    is_newer = Q(created_at__gt=job.created_at) | Q(created_at=job.created_at, id__gt=job.id)
    return Q(created_at__gte=job.created_at) & is_newer
