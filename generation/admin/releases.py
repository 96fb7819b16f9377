"""Admin of releases: details, activation, canary, rollback. Files and facts are immutable."""

from collections.abc import Callable
from typing import Any

from django.conf import settings
from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest
from django.template.defaultfilters import filesizeformat, pluralize
from unfold.admin import ModelAdmin
from unfold.contrib.filters.admin import ChoicesDropdownFilter
from unfold.decorators import action, display

from generation.admin import pictures
from generation.admin.actions import Number, ObjectActionsMixin, ReadOnlyMixin, whole_number
from generation.models import PromptVariant, Release
from generation.releases import activation, quality, reassignment, specialists
from generation.releases import lifecycle as releases
from generation.releases.default_release import Serving


@admin.register(Release)
class ReleaseAdmin(ReadOnlyMixin, ObjectActionsMixin, ModelAdmin):
    list_display = ("named", "status_badge", "steps", "sizes", "size_on_disk", "activated")
    list_filter = (("kind", ChoicesDropdownFilter), ("status", ChoicesDropdownFilter))
    list_filter_submit = True
    search_fields = ("name", "encoder_fingerprint")
    actions = ("activate", "specialist", "canary", "end_canary", "rollback", "retire", "reject")
    object_actions = actions
    editable = ("max_tries", "quality_floor")
    readonly_fields = (
        "status_badge",
        "steps",
        "sizes",
        "size_on_disk",
        "sampling",
        "weights",
        "covers",
    )
    fieldsets = (
        (
            None,
            {
                "fields": (
                    ("name", "kind"),
                    ("status_badge", "replaced"),
                    ("registered_at", "activated_at"),
                    "retired_at",
                )
            },
        ),
        ("Quality control", {"fields": ("max_tries", "quality_floor")}),
        (
            "Properties",
            {
                "fields": (
                    ("steps", "sampling"),
                    ("sizes", "covers"),
                    ("weights", "size_on_disk"),
                    "encoder_fingerprint",
                    "has_encoder",
                    "path",
                )
            },
        ),
        ("release.json", {"fields": ("manifest_sha256", "manifest"), "classes": ["collapse"]}),
    )

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:
        quality.edit(obj, "max_tries", obj.max_tries)
        quality.edit(obj, "quality_floor", obj.quality_floor)

    @display(description="release", ordering="name")
    def named(self, release: Release) -> Any:
        return pictures.wording(release.name, release.kind)

    @display(description="status", ordering="status")
    def status_badge(self, release: Release) -> str:
        if release.canary_percent:
            return pictures.badge("canary", f"{release.canary_percent} % of jobs")
        return pictures.badge(release.status)

    @display(description="steps")
    def steps(self, release: Release) -> int:
        return release.num_inference_steps

    @display(description="image sizes")
    def sizes(self, release: Release) -> str:
        return ", ".join(f"{width} × {height}" for width, height in release.image_sizes)

    @display(description="size on disk", ordering="size_bytes")
    def size_on_disk(self, release: Release) -> str:
        return filesizeformat(release.size_bytes)

    activated = pictures.when_column("activated_at", "activated")

    @display(description="sampling")
    def sampling(self, release: Release) -> str:
        facts = release.manifest
        guidance = facts["guidance_scale"]
        return f"{facts['noise_scheduler']}, {facts['prediction_type']}, " + (
            "no guidance" if guidance == 1 else f"guidance {guidance:g}"
        )

    @display(description="weights")
    def weights(self, release: Release) -> str:
        facts = release.manifest
        return facts["weight_dtype"] + (
            f", {facts['quantization']}" if facts["quantization"] else ""
        )

    @display(description="covers")
    def covers(self, release: Release) -> str:
        covered = (
            "the whole catalogue"
            if release.covers_all
            else f"{(count := release.coverage.count())} prompt variant{pluralize(count)}"
        )
        if release.status != Release.Status.SPECIALIST:
            return covered
        serving = Serving.now()
        active = PromptVariant.objects.filter(status=PromptVariant.Status.ACTIVE)
        made = serving.annotated(active).filter(serving.serves(release)).count()
        return f"{covered}; it makes {made} of the catalogue now"

    # --- actions
    def action_applies(self, name: str, obj: Any) -> bool:
        status = obj.status
        is_waiting = status in (Release.Status.CANDIDATE, Release.Status.RETIRED)
        return {
            "canary": is_waiting and not obj.canary_percent,
            "end_canary": obj.canary_percent > 0,
            "activate": is_waiting or status == Release.Status.SPECIALIST,
            "specialist": is_waiting and obj.kind == Release.Kind.STUDENT,
            "rollback": status == Release.Status.ACTIVE and obj.replaced_id is not None,
            "retire": status == Release.Status.SPECIALIST,
            "reject": is_waiting,
        }[name]

    def confirmation(self, name: str, obj: Any) -> str:
        active = releases.active(obj.kind)
        return {
            "activate": f"New jobs will use {obj.name}"
            + (f" instead of {active.name}, which is retired." if active else "."),
            "specialist": f"New jobs will use {obj.name} for prompts that no other student covers, and for prompts "
            "that it makes measurably better. Other prompts keep their release.",
            "retire": f"New jobs will use other releases for the prompts of {obj.name}.",
            "rollback": f"New jobs will use {obj.replaced} again, and {obj.name} is retired.",
            "reject": f"{obj.name} can never be served after this. This cannot be undone.",
            "canary": f"A share of the jobs uses {obj.name}, and its failures are compared with those of the active "
            "release. It is withdrawn if it is measurably worse.",
        }.get(name, "") + _changes(name, obj)

    def number(self, name: str, obj: Any) -> Number | None:
        if name != "canary":
            return None
        return Number("percent", "Share of the jobs, %", 1, 99, settings.CANARY_PERCENT)

    @action(description="Activate", icon="play_circle", permissions=["change"])
    def activate(self, request: HttpRequest, queryset: QuerySet) -> None:
        self._one(request, queryset, activation.activate, "{} is active.")

    @action(description="Activate as specialist", icon="star", permissions=["change"])
    def specialist(self, request: HttpRequest, queryset: QuerySet) -> None:
        self._one(request, queryset, activation.activate_specialist, "{} is a specialist.")

    @action(description="Start canary", icon="science", permissions=["change"])
    def canary(self, request: HttpRequest, queryset: QuerySet) -> None:
        self._one(
            request,
            queryset,
            lambda release: activation.begin_canary(release, whole_number(request, "percent")),
            "{0} serves {0.canary_percent} % of jobs.",
        )

    @action(description="End canary", icon="close", permissions=["change"])
    def end_canary(self, request: HttpRequest, queryset: QuerySet) -> None:
        self._one(request, queryset, releases.end_canary, "The canary {} has ended.")

    @action(description="Roll back", icon="undo", permissions=["change"])
    def rollback(self, request: HttpRequest, queryset: QuerySet) -> None:
        self._one(
            request,
            queryset,
            lambda release: releases.rollback(release.kind, expected=release),
            "{} is active again.",
        )

    @action(description="Retire specialist", icon="stop_circle", permissions=["change"])
    def retire(self, request: HttpRequest, queryset: QuerySet) -> None:
        self._one(request, queryset, specialists.retire, "{} is retired.")

    @action(description="Reject", icon="block", permissions=["change"])
    def reject(self, request: HttpRequest, queryset: QuerySet) -> None:
        self._one(request, queryset, releases.reject, "{} was rejected.")

    def _one(
        self, request: HttpRequest, queryset: QuerySet, change: Callable[[Any], Any], done: str
    ) -> None:
        one = "Select exactly one release."
        self.change_each(request, queryset, change, said=done, logged=done, select_one=one)


def _changes(name: str, release: Release) -> str:
    """Return sentences about the prompt variants whose release the action changes, or ""."""
    after = {
        "activate": reassignment.activated,
        "specialist": reassignment.beside,
        "retire": reassignment.retired,
        "rollback": _rolled_back,
    }.get(name)
    if after is None:
        return ""
    return reassignment.paragraphs(after, release)


def _rolled_back(now: Serving, release: Release) -> Serving:
    previous = release.replaced
    return now if previous is None else reassignment.activated(now, previous)
