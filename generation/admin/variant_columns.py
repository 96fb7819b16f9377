"""Cells of the prompt catalogue's list and page, as HTML."""

from collections.abc import Collection
from typing import Any
from urllib.parse import urlencode

from django.urls import reverse
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

from generation.admin import pictures
from generation.catalogue.standing import Overview, Standing
from generation.catalogue.text_rules import NOT
from generation.models import PromptVariant
from generation.releases import quality
from generation.releases.quality import Judged

IN_THE_LIST = 8  # tags of a variant


def chips(tags: list[str], bits: Collection[str]) -> SafeString | str:
    """Return tags as links to the list filtered by them. bits: tags that the detector checks in images."""
    place = reverse("admin:generation_promptvariant_changelist")
    shown = [
        (
            f"{place}?{urlencode({'tag': tag})}",
            "rt-chip rt-bit" if tag.removeprefix(NOT) in bits else "rt-chip",
            "Checked in images by the detector" if tag.removeprefix(NOT) in bits else "Not checked",
            tag,
        )
        for tag in tags[:IN_THE_LIST]
    ]
    found = format_html_join("", '<a href="{}" class="{}" title="{}">{}</a>', shown)
    more = f"+{len(tags) - IN_THE_LIST}" if len(tags) > IN_THE_LIST else ""
    return format_html('<span class="rt-chips">{}{}</span>', found, more) if found else "–"


def served(overview: Overview, variant: Any, waits: str) -> SafeString | str:
    """Return which release serves a variant and why. waits: when a student will cover it, "" if unknown."""
    if variant.status != PromptVariant.Status.ACTIVE:
        return "–"
    release = overview.serving.release(variant)
    label = pictures.badge(release.kind if release else "nobody", release.name if release else "")
    lines = [overview.reason(variant), "" if variant.is_covered else waits]
    said = format_html_join("", "<span>{}</span>", ((line,) for line in lines if line))
    return format_html('<span class="rt-reason">{}{}</span>', label, said)


def right(judged: Judged | None, floor: float, slug: str = "") -> SafeString:
    """Return the share of right pictures with interval and count. slug: variant of the link to the wrong ones."""
    if judged is None:
        return format_html('<span class="rt-quiet">{}</span>', "not judged yet")
    share = judged.share
    low, high = share.interval
    jobs = reverse("admin:generation_job_changelist")
    link = format_html(
        '<a href="{}?images=flagged&amp;q={}">{} flagged</a>', jobs, slug, judged.flagged
    )
    is_weak = share.total >= quality.MIN_JUDGED and share.value < quality.limit(floor)
    return format_html(
        '<span class="rt-share"><strong class="{}">{} right</strong>'
        '<progress max="100" value="{}" aria-label="right pictures"></progress>'
        '<span class="rt-quiet">{} of {}; {} to {}</span>{}</span>',
        "rt-worse" if is_weak else "",
        f"{share.value:.0%}",
        round(100 * share.value),
        share.count,
        share.total,
        f"{low:.0%}",
        f"{high:.0%}",
        link if slug and judged.flagged else "",
    )


def bar(overview: Overview) -> dict[str, Any]:
    """Return the context of the bar above the list: counts of active variants by standing, with links."""
    total, place = overview.counts[""], reverse("admin:generation_promptvariant_changelist")
    parts, left = [], 0.0
    for standing in (Standing.COVERED, Standing.WAITING, Standing.FAILING):
        count = overview.counts[standing]
        width = 1000 * count / total if total else 0.0
        facts = {"x": f"{left:.1f}", "width": f"{width:.1f}"}
        name = "not covered" if standing is Standing.WAITING else standing.value
        parts.append(_link(place, f"standing={standing}", name, count, standing) | facts)
        left += width
    unknown = len(overview.with_unknown_words)
    return {
        "total": total,
        "parts": parts,
        "others": [
            _link(place, "standing=weak", "weak", overview.counts[Standing.WEAK], "weak"),
            _link(place, "standing=hard", "hard", overview.counts[Standing.HARD], "hard"),
            _link(place, "unknown=yes", "with unknown words", unknown, "unknown"),
        ],
        "limit": f"{quality.limit():.0%}",
    }


def _link(place: str, query: str, name: str, count: int, kind: str) -> dict[str, Any]:
    return {"url": f"{place}?{query}", "name": name, "count": count, "kind": kind}
