"""Admin of the prompt catalogue: serving release and quality of each variant; edit, import, export."""

from typing import Any
from uuid import UUID

import redis
from django.contrib import admin, messages
from django.contrib.admin.utils import unquote
from django.contrib.postgres.expressions import ArraySubquery
from django.contrib.postgres.fields import ArrayField
from django.core.exceptions import PermissionDenied
from django.db.models import Case, OuterRef, QuerySet, UUIDField, Value, When
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect
from django.urls import path, reverse
from django.utils.html import escape, format_html, format_html_join
from import_export.admin import ImportExportModelAdmin
from unfold.admin import ModelAdmin
from unfold.contrib.filters.admin import ChoicesDropdownFilter
from unfold.contrib.import_export.forms import ExportForm
from unfold.decorators import display

from generation.access import audit
from generation.admin import pictures, variant_columns, variant_page
from generation.admin.actions import ObjectActionsMixin
from generation.admin.audit import AuditedDeletionsMixin
from generation.admin.variant_actions import VariantActionsMixin
from generation.admin.variant_crosstab import VariantCrosstabMixin
from generation.admin.variant_forms import (
    ChangeFilter,
    EmbeddingFilter,
    StandingFilter,
    TagFilter,
    UnknownWordsFilter,
    VariantConfirmImportForm,
    VariantForm,
    VariantImportForm,
    near_tags,
    overview_of,
)
from generation.admin.variant_import import PreviewedFile, PreviewResource
from generation.admin.variant_page import Further
from generation.catalogue import import_export, unknown_words
from generation.catalogue import variants as catalogue
from generation.catalogue.file_formats import LIMITS, CatalogueCSV, CatalogueJSON
from generation.catalogue.unknown_words import Vocabulary
from generation.catalogue.variants import EmbeddingState
from generation.engine.files import THUMBNAIL_PIXELS
from generation.jobs import variant_images
from generation.models import Embedding, Image, PromptVariant, VariantImage
from generation.releases import lifecycle as releases

Status = PromptVariant.Status
_PICTURES = ArrayField(UUIDField())
NOT_KEPT = (
    "Nothing was imported: Redis does not answer, which keeps the file between preview and import."
)


@admin.register(PromptVariant)
class PromptVariantAdmin(
    VariantCrosstabMixin,
    VariantActionsMixin,
    AuditedDeletionsMixin,
    ObjectActionsMixin,
    ModelAdmin,
    ImportExportModelAdmin,
):
    form = VariantForm
    resource_classes = [PreviewResource]
    import_template_name = "generation/admin/import.html"
    tmp_storage_class = PreviewedFile
    import_form_class = VariantImportForm
    confirm_form_class = VariantConfirmImportForm
    export_form_class = ExportForm
    formats = [CatalogueCSV, CatalogueJSON]

    list_display = ("latest", "wording", "served", "right", "tag_list", "state", "updated")
    list_display_links = ("wording",)
    list_filter = (
        StandingFilter,
        ("status", ChoicesDropdownFilter),
        EmbeddingFilter,
        UnknownWordsFilter,
        TagFilter,
        ChangeFilter,
    )
    list_filter_submit = True
    list_before_template = "generation/admin/variant_list.html"
    list_per_page = 50
    show_full_result_count = False
    search_fields = ("slug", "text", "normalized_text", "notes", "tags")
    search_help_text = "Slug, text, tag or notes"
    change_form_outer_before_template = "generation/admin/variant.html"
    readonly_fields = ("unknown", "embeddings", "revision", "created_at", "updated_at")

    def waits(self, request: HttpRequest, variant: Any) -> str:
        """Return when a student will cover a variant, or "" if unknown."""
        return ""

    def next_run(self, request: HttpRequest) -> str:
        """Return a sentence on when the next student will be made, or "" if unknown."""
        return ""

    def after_import(self, request: HttpRequest) -> str:
        """Return what to do after an import that changed the catalogue, as HTML, or "" if nothing."""
        return ""

    def get_queryset(self, request: HttpRequest) -> QuerySet[PromptVariant]:
        overview = overview_of(request)
        latest = Image.objects.filter(job__variant=OuterRef("pk"))
        newest = latest.order_by("-job__created_at", "index").values("pk")
        cases = [
            When(
                overview.serving.serves(release),
                then=ArraySubquery(newest.filter(job__release=release)[:1]),
            )
            for release in overview.serving.all
        ]
        rows = overview.annotated(super().get_queryset(request))
        return rows.annotate(
            latest_images=Case(*cases, default=Value([], output_field=_PICTURES))
            if cases
            else Value([], output_field=_PICTURES)
        )

    def get_fieldsets(self, request: HttpRequest, obj: PromptVariant | None = None) -> Any:
        wording = ["text", "slug", "tags", "status", "max_tries", "quality_floor", "notes"]
        if obj is None:
            return [(None, {"fields": wording})]
        if self.has_change_permission(request, obj):
            wording.insert(1, "new_revision")
            wording.append("seen")
        facts = ["unknown", "embeddings", "revision", "created_at", "updated_at"]
        return [(None, {"fields": wording}), ("Embeddings", {"fields": facts})]

    def get_form(self, request: HttpRequest, obj: Any = None, **kwargs: Any) -> Any:
        # `new_revision` and `seen` are fields of the form only; the admin would look them up on the model.
        kwargs["fields"] = [*VariantForm.Meta.fields]
        if not self.has_change_permission(request, obj) and obj is not None:
            kwargs["fields"] = []
        form = super().get_form(request, obj, **kwargs)
        form.bits = self.known_bits()
        return form

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:
        catalogue.save(obj, new_revision=form.cleaned_data.get("new_revision", False))
        if unknown := Vocabulary().unknown(obj.text):
            messages.warning(request, unknown_words.sentence(unknown))
        if "tags" in form.changed_data:
            for sentence in near_tags(obj.tags):
                messages.warning(request, sentence)

    def get_changelist_instance(self, request: HttpRequest) -> Any:
        found = super().get_changelist_instance(request)
        overview = overview_of(request)
        found.bar = variant_columns.bar(overview) | {"next_run": self.next_run(request)}
        judged, bits = overview.serving.judged(found.result_list), self.known_bits()
        images = variant_images.shown(overview.serving, found.result_list)
        for variant in found.result_list:
            variant.unknown_words = overview.vocabulary.unknown(variant.text)
            variant.shown = {
                "image": images.get(variant.pk),
                "served": variant_columns.served(overview, variant, self.waits(request, variant)),
                "right": variant_columns.right(
                    judged.get(variant.normalized_text), variant.floor, variant.slug
                )
                if variant.status == Status.ACTIVE
                else "–",
                "tags": variant_columns.chips(variant.tags, bits),
            }
        return found

    def panel(self, request: HttpRequest, obj: Any) -> dict[str, Any]:
        may_see = request.user.has_perm("generation.view_job")
        overview = overview_of(request)
        details = variant_page.of(
            obj,
            overview,
            waits=self.waits(request, obj),
            may_see=may_see,
            further=self.further_pictures(request, obj) if may_see else {},
        )
        return {"details": details | {"blocks": self.blocks(request, obj)}}

    def further_pictures(self, request: HttpRequest, variant: Any) -> Further:
        """Return the URLs of the variant's pictures that belong to no job, such as those of evaluations."""
        return {}

    def blocks(self, request: HttpRequest, obj: Any) -> list[dict[str, Any]]:
        """Return further sections of the page, each with title and content."""
        return []

    def delete_view(self, request: HttpRequest, object_id: str, extra_context: Any = None) -> Any:
        """Show the confirmation page, or an error if jobs refer to the variant, which can then only be archived."""
        variant = self.get_object(request, unquote(object_id))
        if variant is not None and variant.jobs.exists():
            messages.error(
                request,
                f"Jobs refer to {variant.slug}, so it cannot be deleted. Archive it instead.",
            )
            return redirect("admin:generation_promptvariant_change", variant.pk)
        return super().delete_view(request, object_id, extra_context)

    def record_deletion(self, obj: Any) -> None:
        audit.record("variant_deleted", obj.slug, text=obj.text)

    # --- columns and fields
    @display(description="prompt variant", ordering="slug")
    def wording(self, variant: PromptVariant) -> str:
        return pictures.wording(variant.text, variant.slug)

    @display(description="picture")
    def latest(self, variant: Any) -> str:
        change = reverse("admin:generation_promptvariant_change", args=[variant.pk])
        if variant.latest_images or variant.shown["image"] is None:
            return pictures.row(variant.latest_images, to=change)
        return pictures.row_of_variant(variant.shown["image"], to=change)

    @display(description="served by", ordering="served_by")
    def served(self, variant: Any) -> str:
        return variant.shown["served"]

    @display(description="right pictures")
    def right(self, variant: Any) -> str:
        return variant.shown["right"]

    @display(description="tags")
    def tag_list(self, variant: Any) -> str:
        return variant.shown["tags"]

    @display(description="status", ordering="status")
    def state(self, variant: Any) -> str:
        """Return the state of the embedding of an active variant, otherwise the variant's status."""
        if variant.embedding_state is None or variant.status != Status.ACTIVE:
            return pictures.badge(variant.status)
        state, reason = variant.embedding_state, variant.embedding_reason or ""
        if not reason and variant.unknown_words:
            state, reason = "unknown words", unknown_words.sentence(variant.unknown_words)
        label = pictures.badge(state, reason)
        if not reason:
            return label
        return format_html('<span class="rt-reason">{}<span>{}</span></span>', label, reason)

    updated = pictures.when_column("updated_at", "updated")

    @display(description="unknown words")
    def unknown(self, variant: PromptVariant) -> str:
        found = Vocabulary().unknown(variant.text)
        return unknown_words.sentence(found) if found else "–"

    @display(description="embeddings")
    def embeddings(self, variant: PromptVariant) -> str:
        rows = Embedding.objects.filter(variant=variant).defer("data").order_by("-encoded_at")
        in_use = dict.fromkeys(catalogue.fingerprints(), "") | {
            release.encoder_fingerprint: f" (of {release.name})"
            for release in releases.encoders_in_use()
        }
        lines = [
            (
                self._state_of(row, variant, row.encoder_fingerprint in in_use),
                f"revision {row.revision}, encoder {row.encoder_fingerprint[:12]}"
                + in_use.get(row.encoder_fingerprint, " (not in use)"),
                row.error or f"{' × '.join(map(str, row.shape))} {row.dtype}",
                pictures.when(row.encoded_at),
            )
            for row in rows[:20]
        ]
        return (
            format_html_join(
                "",
                '<div class="rt-line">{} <span>{}</span><span>{}</span><span>{}</span></div>',
                lines,
            )
            or "–"
        )

    def _state_of(self, row: Embedding, variant: PromptVariant, is_in_use: bool) -> str:
        if row.revision != variant.revision or not is_in_use:
            return pictures.badge(EmbeddingState.STALE.value)
        if not row.error:
            return pictures.badge(EmbeddingState.ENCODED.value)
        state = (
            EmbeddingState.PENDING if row.error == catalogue.ENCODE_AGAIN else EmbeddingState.FAILED
        )
        return pictures.badge(state.value)

    # --- pages
    def get_urls(self) -> list:
        view = self.admin_site.admin_view(self.template_view)
        return [
            path("template/", view, name="generation_promptvariant_template"),
            self.page("unknown/", self.unknown_view, "generation_promptvariant_unknown"),
            self.page(
                "image/<uuid:image_id>/",
                self.image_view,
                "generation_promptvariant_image",
                cacheable=True,
            ),
            *super().get_urls(),
        ]

    def unknown_view(self, request: HttpRequest) -> HttpResponse:
        """Return the warning about unknown words of a text that is being typed, for htmx."""
        if not request.htmx:  # type: ignore[attr-defined]
            return redirect("admin:generation_promptvariant_add")
        return HttpResponse(escape(unknown_words.warning(request.GET.get("text", ""))))

    def image_view(self, request: HttpRequest, image_id: UUID) -> HttpResponse:
        image = get_object_or_404(VariantImage, pk=image_id)
        pixels = THUMBNAIL_PIXELS  # of its longest side
        return pictures.respond_file(
            request, image.file, "full", title=str(image.id), pixels=pixels
        )

    # --- import and export
    def template_view(self, request: HttpRequest) -> HttpResponse:
        """Return a CSV file to fill in."""
        if not self.has_import_permission(request):
            raise PermissionDenied
        headers = {"Content-Disposition": 'attachment; filename="catalogue.csv"'}
        # With a byte order mark, by which spreadsheets recognise UTF-8.
        text = import_export.template().encode("utf-8-sig")
        return HttpResponse(text, content_type="text/csv; charset=utf-8", headers=headers)

    def process_import(self, request: HttpRequest, **kwargs: Any) -> HttpResponse:
        """Import the previewed file."""
        try:
            return super().process_import(request, **kwargs)
        except FileNotFoundError:
            return self._upload_again(
                request, "The file is no longer stored: it was imported, or is a day old."
            )
        except redis.RedisError:
            return self._upload_again(request, NOT_KEPT)

    def import_action(self, request: HttpRequest, **kwargs: Any) -> HttpResponse:
        """Preview an import. A file that cannot be imported is not kept."""
        try:
            answer = super().import_action(request, **kwargs)
            kept = getattr(request.FILES.get("import_file"), "tmp_storage_name", "")
            if kept and "confirm_form" not in answer.context_data:
                PreviewedFile(name=kept).remove()
            return answer
        except redis.RedisError:
            return self._upload_again(request, NOT_KEPT)

    def process_result(self, result: Any, request: HttpRequest) -> HttpResponse:
        """Report the import, which is rolled back if an error occurred since the preview."""
        if result.has_errors() or result.has_validation_errors():
            return self._upload_again(
                request, "Nothing was imported: the catalogue changed after the preview."
            )
        return super().process_result(result, request)

    def _upload_again(self, request: HttpRequest, why: str) -> HttpResponse:
        messages.error(request, f"{why} Upload the file again to see what it would change now.")
        return redirect("admin:generation_promptvariant_import")

    def add_success_message(self, result: Any, request: HttpRequest) -> None:
        """Report the import, with a link to the list of changed variants."""
        totals, change = result.totals, getattr(result, "change", None)
        said = f"Imported: {totals['new']} new, {totals['update']} changed, {totals['skip']} unchanged."
        if change is not None:
            place = reverse("admin:generation_promptvariant_changelist")
            link = format_html(
                '<a href="{}?change={}" class="underline">Show them</a>', place, change.pk
            )
            said = format_html("{} {} {}", said, link, self.after_import(request))
        messages.success(request, said)

    def has_import_permission(self, request: HttpRequest) -> bool:
        return self.has_add_permission(request) and self.has_change_permission(request)

    def has_export_permission(self, request: HttpRequest) -> bool:
        return self.has_view_permission(request)

    def get_import_resource_kwargs(self, request: HttpRequest, **kwargs: Any) -> dict[str, Any]:
        data = getattr(kwargs.get("form"), "cleaned_data", {})
        return {"new_revisions": bool(data.get("new_revisions"))}

    def get_import_context_data(self, **kwargs: Any) -> dict[str, Any]:
        return super().get_import_context_data(**kwargs) | {"limits": LIMITS}

    def get_import_data_kwargs(self, **kwargs: Any) -> dict[str, Any]:
        return {"rollback_on_validation_errors": True}

    def add_data_read_fail_error_to_form(self, form: Any, e: Exception) -> None:
        form.add_error("import_file", f"The file cannot be read: {e}")

    def get_confirm_form_initial(self, request: HttpRequest, import_form: Any) -> dict[str, Any]:
        initial = super().get_confirm_form_initial(request, import_form)
        if import_form:
            initial["new_revisions"] = import_form.cleaned_data["new_revisions"]
        return initial

    def get_export_resource_kwargs(self, request: HttpRequest, **kwargs: Any) -> dict[str, Any]:
        return {}
