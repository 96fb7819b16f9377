"""Tags by kind (objects, colours, materials). The setting TAG_KINDS names the function that returns the kinds."""

from collections.abc import Callable, Sequence
from typing import TypeVar

from django.conf import settings
from django.db.models import Count, F, Func
from django.utils.module_loading import import_string

from generation.models import PromptVariant

MAX_TAGS = 100  # tags in the gallery's filter

T = TypeVar("T")


class Unnest(Func):
    function = "unnest"
    set_returning = True


def kinds() -> tuple[tuple[str, ...], ...]:
    """Return the known tags by kind. A variant has at most one tag of each."""
    return import_string(settings.TAG_KINDS)() if settings.TAG_KINDS else ()


def by_kind(found: Sequence[T], name: Callable[[T], str]) -> list[list[T]]:
    """Group items by the kind of their tag, in the order of the kinds; items without a kind come last."""
    known = kinds()
    places = {tag: place for place, kind in enumerate(known) for tag in kind}
    rows: list[list[T]] = [[] for _ in range(len(known) + 1)]
    for one in found:
        rows[places.get(name(one), -1)].append(one)
    return [row for row in rows if row]


def groups() -> list[list[str]]:
    """Return the most frequent tags of active prompt variants, by kind."""
    rows = PromptVariant.objects.filter(status=PromptVariant.Status.ACTIVE).order_by()
    counted = rows.annotate(tag=Unnest(F("tags"))).values_list("tag", flat=True)
    return by_kind(list(counted.annotate(n=Count("pk")).order_by("-n", "tag")[:MAX_TAGS]), str)
