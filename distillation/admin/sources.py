"""Admin of image sources: location, results, ingestion."""

from typing import Any

from django import forms
from django.contrib import admin, messages
from django.core.exceptions import ValidationError
from django.db import transaction
from django.db.models import Count, Q, QuerySet
from django.http import HttpRequest
from django.template.defaultfilters import pluralize
from django.urls import reverse
from django.utils import timezone
from django.utils.html import format_html
from unfold.admin import ModelAdmin
from unfold.decorators import action, display
from unfold.widgets import UnfoldAdminFileFieldWidget, UnfoldAdminTextInputWidget

from distillation.errors import DistillationRefused
from distillation.examples import lifecycle as examples
from distillation.examples import uploads
from distillation.models import ImageSource
from generation.admin import pictures
from generation.admin.actions import ObjectActionsMixin
from generation.admin.audit import AuditedFormMixin
from generation.admin.initial import ReadableInitialMixin
from generation.catalogue import text_rules
from generation.errors import GenerationError


class PicturesWidget(UnfoldAdminFileFieldWidget):
    allow_multiple_selected = True


class PicturesField(forms.FileField):
    """Form field of several files. Its value is a list."""

    widget = PicturesWidget

    def clean(self, data: Any, initial: Any = None) -> Any:
        return [super(PicturesField, self).clean(file, initial) for file in data or ()]


class SourceForm(forms.ModelForm):
    pictures = PicturesField(
        label="Upload pictures",
        required=False,
        help_text="Instead of a URL: PNG, JPEG or WebP files of your computer, up to 100 and 64 MiB at once.",
    )
    tags = forms.CharField(
        required=False,
        widget=UnfoldAdminTextInputWidget,
        help_text="Separated by commas. What all of its images show besides the tags of the variants; not-BIT: what "
        "they do not show. Tags that are not bits of the detector have no effect.",
    )

    class Meta:
        model = ImageSource
        fields = ("name", "url", "pictures", "variants", "tags", "is_enabled")
        help_texts = {
            "variants": "Each image illustrates all of them. Use separate sources for variants that differ in a bit.",
            "url": "A folder below IMAGE_SOURCE_ROOTS, or https://…, s3://…, gs://…, abfs://…; empty for uploads.",
        }

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if "tags" in self.fields:
            self.fields["url"].required = False
            self.initial["tags"] = ", ".join(self.instance.tags)

    def clean_url(self) -> str:
        if not self.cleaned_data["url"]:
            return ""
        try:
            examples.check_url(self.cleaned_data["url"])
        except DistillationRefused as error:
            raise ValidationError(error.detail) from error
        return self.cleaned_data["url"]

    def clean_tags(self) -> list[str]:
        try:
            return text_rules.tidy_tags(self.cleaned_data["tags"].split(","))
        except GenerationError as error:
            raise ValidationError(error.detail) from error

    def clean(self) -> dict[str, Any]:
        data = super().clean() or self.cleaned_data
        files = data.get("pictures", [])
        if not data.get("url") and "url" not in self.errors and "name" in data:
            if not files:
                self.add_error("url", "Give a URL, or upload pictures.")
            data["url"] = uploads.url_of(data["name"])
        try:
            uploads.check(files, data.get("url", ""))
        except DistillationRefused as error:
            self.add_error("pictures", error.detail)
        try:
            examples.check_tags(data.get("tags", ()), data.get("variants", ()))
        except DistillationRefused as error:
            self.add_error("tags", error.detail)
        return data


@admin.register(ImageSource)
class ImageSourceAdmin(AuditedFormMixin, ReadableInitialMixin, ObjectActionsMixin, ModelAdmin):
    noun = "image_source"
    form = SourceForm
    list_display = ("named", "state", "taken", "accepted", "refused", "read")
    search_fields = ("name", "url", "tags")
    autocomplete_fields = ("variants",)
    actions = ("ingest",)
    object_actions = ("ingest",)
    readonly_fields = ("state", "taken", "accepted", "refused", "read")

    def get_fieldsets(self, request: HttpRequest, obj: Any = None) -> Any:
        may = obj is None or self.has_change_permission(request, obj)
        upload = ["pictures"] if may and (obj is None or obj.url.startswith(uploads.FOLDER)) else []
        own = (None, {"fields": ["name", "url", *upload, "variants", "tags", "is_enabled"]})
        if obj is None:
            return [own]
        facts = [("state", "read"), ("taken", "accepted"), "refused"]
        return [own, ("Result", {"fields": facts})]

    def get_form(self, request: HttpRequest, obj: Any = None, **kwargs: Any) -> Any:
        may = obj is None or self.has_change_permission(request, obj)
        kwargs["fields"] = [*SourceForm.Meta.fields] if may else []
        return super().get_form(request, obj, **kwargs)

    def get_queryset(self, request: HttpRequest) -> QuerySet[ImageSource]:
        pictures_of = Q(examples__refusal="")
        return (
            super()
            .get_queryset(request)
            .annotate(
                taken_count=Count("examples", filter=pictures_of),
                refused_count=Count("examples", filter=~pictures_of),
                accepted_count=Count("examples", filter=Q(examples__in=examples.accepted())),
            )
        )

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:
        if files := form.cleaned_data.get("pictures"):
            uploads.store(files, obj.url)
        super().save_model(request, obj, form, change)

    def delete_model(self, request: HttpRequest, obj: Any) -> None:
        super().delete_model(request, obj)
        _delete_uploads([obj.url])

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet) -> None:
        urls = list(queryset.values_list("url", flat=True))
        super().delete_queryset(request, queryset)
        _delete_uploads(urls)

    def save_related(self, request: HttpRequest, form: Any, formsets: Any, change: bool) -> None:
        super().save_related(request, form, formsets, change)
        if examples.request_ingestion(ImageSource.objects.filter(pk=form.instance.pk)):
            messages.info(request, f"{form.instance.name} will be read when a worker is free.")

    # --- columns
    @display(description="source", ordering="name")
    def named(self, source: ImageSource) -> Any:
        return pictures.wording(source.name, source.url)

    @display(description="state")
    def state(self, source: ImageSource) -> str:
        if not source.is_enabled:
            return pictures.badge("disabled")
        if source.lease_expires_at and source.lease_expires_at > timezone.now():
            return pictures.badge("reading")
        if source.asked_at:
            return pictures.badge("queued")
        if source.error:
            label = pictures.badge("failed", source.error)
            return format_html(
                '<span class="rt-reason">{}<span>{}</span></span>', label, source.error
            )
        return pictures.badge("read") if source.ingested_at else pictures.badge("not read")

    @display(description="examples", ordering="taken_count")
    def taken(self, source: Any) -> Any:
        return _link(source, source.taken_count, refusal="none")

    @display(description="accepted", ordering="accepted_count")
    def accepted(self, source: Any) -> Any:
        return _link(source, source.accepted_count, standing="accepted")

    @display(description="refused files", ordering="refused_count")
    def refused(self, source: Any) -> Any:
        return _link(source, source.refused_count, refusal="any")

    read = pictures.when_column("ingested_at", "last read")

    # --- actions
    def action_applies(self, name: str, obj: Any) -> bool:
        return bool(obj.is_enabled)

    @action(description="Ingest now", icon="sync", permissions=["change"])
    def ingest(self, request: HttpRequest, queryset: QuerySet) -> None:
        asked = examples.request_ingestion(ImageSource.objects.filter(pk__in=queryset.values("pk")))
        if not asked:
            messages.warning(request, "Nothing to read: the selected sources are disabled.")
        else:
            sources = f"{asked} source{pluralize(asked)}"
            messages.success(request, f"{sources} will be read when a worker is free.")


def _delete_uploads(urls: list[str]) -> None:
    transaction.on_commit(lambda: uploads.delete_unused(urls), robust=True)


def _link(source: ImageSource, count: int, **filters: str) -> Any:
    """Return the number as a link to the images."""
    chosen = {"source__id__exact": str(source.pk)} | filters
    page = reverse("admin:distillation_example_changelist", query=chosen)
    return format_html('<a href="{}" class="underline">{}</a>', page, count)
