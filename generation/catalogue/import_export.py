"""Import and export of the catalogue as CSV or JSON. An import is one transaction; the rules are in `variants`."""

import csv
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import tablib
from django.core.exceptions import ValidationError
from django.core.validators import validate_slug
from django.db.models import Exists, OuterRef
from django.utils.functional import cached_property
from import_export import fields, resources

from generation.access import audit
from generation.catalogue import editing, text_rules
from generation.catalogue import variants as catalogue
from generation.catalogue.file_formats import COLUMNS, TagList, TagsWidget, format_of
from generation.engine.prompts.texts import normalize, tidy
from generation.errors import InvalidRequest, PromptInvalid
from generation.infra import database
from generation.models import Image, PromptVariant

UPDATED = ("text", "normalized_text", "revision", "tags", "status", "notes", "updated_at")
BATCH_SIZE = 1000  # rows per INSERT or UPDATE


# --- the resource ---------------------------------------------------------------------------------
class VariantResource(resources.ModelResource):
    """Import of rows as variants, which are found by slug, or by text if the slug is empty.

    new_revisions: whether texts of variants with images may change.
    """

    tags = fields.Field(attribute="tags", column_name="tags", widget=TagsWidget())

    class Meta:
        model = PromptVariant
        fields = COLUMNS
        import_order = export_order = COLUMNS
        import_id_fields = ("slug",)
        use_bulk = True
        batch_size = BATCH_SIZE
        skip_unchanged = True
        report_skipped = False
        skip_diff = True

    def __init__(
        self, *, new_revisions: bool = False, on_progress: Callable[[int], None] | None = None
    ) -> None:
        super().__init__()
        self._new_revisions = new_revisions
        self._on_progress = on_progress
        self._variants: dict[str, PromptVariant] = {}  # by slug
        self._texts: dict[str, str] = {}  # normalised text → slug
        self._seen: dict[str, int] = {}  # slug → row of the file
        self._limits: list[text_rules.Limit] = []
        self._before: tuple | None = None
        self._saved: list[PromptVariant] = []

    def before_import(self, dataset: tablib.Dataset, **kwargs: Any) -> None:
        # Lock against concurrent changes between reading and writing; by id, the lock order of the encode worker.
        # NO KEY: inserting a job takes a KEY SHARE lock on its variant, and must not wait for the import.
        for variant in PromptVariant.objects.select_for_update(no_key=True).order_by("pk"):
            self._variants[variant.slug] = variant
            self._texts[variant.normalized_text] = variant.slug
        self._limits = text_rules.limits()
        self._now = database.now()

    def get_or_init_instance(self, instance_loader: Any, row: dict) -> tuple[PromptVariant, bool]:
        slug = str(row.get("slug") or "").strip()
        if not slug:
            normalized = normalize(str(row.get("text") or ""))
            slug = self._texts.get(normalized) or text_rules.slug_for(normalized, self._variants)
        row["slug"] = slug
        known = self._variants.get(slug)
        if known is not None:
            self._before = self._values(known)
            return known, False
        self._before = None
        return PromptVariant(slug=slug), True

    def import_instance(self, instance: PromptVariant, row: dict, **kwargs: Any) -> None:
        """Set the values of a row. Raises ValidationError with all errors of the row."""
        number, errors = kwargs["row_number"], {}
        old_text, old_notes = instance.text, instance.notes
        cells = {
            name: value
            for name, value in row.items()
            if value is not None and not (name == "status" and not str(value).strip())
        }
        for field in self.get_import_fields():
            try:
                self.import_field(field, instance, cells)
            except (ValueError, PromptInvalid) as error:
                errors[field.attribute] = str(error)
        instance.status = instance.status.strip().lower()
        if instance.status not in PromptVariant.Status.values:
            errors["status"] = f"Give one of {', '.join(PromptVariant.Status.values)}."
        try:
            validate_slug(instance.slug)
            if len(instance.slug) > 120:
                raise ValidationError("A slug may have at most 120 characters.")
        except ValidationError as error:
            errors["slug"] = " ".join(error.messages)
        if instance.slug in self._seen:
            errors["slug"] = f"“{instance.slug}” is already in row {self._seen[instance.slug]}."
        self._seen.setdefault(instance.slug, number)
        for check in (
            partial(text_rules.check_notes, instance.notes, old_notes),
            partial(self._take_text, instance, old_text),
        ):
            try:
                check()
            except PromptInvalid as error:
                errors[error.parameter or "text"] = error.detail
        if errors:
            raise ValidationError(errors)

    def _take_text(self, instance: PromptVariant, old_text: str) -> None:
        instance.text = tidy(str(instance.text))
        if instance.pk and instance.text == old_text:
            return
        normalized = text_rules.check_text(instance.text, self._limits)
        # A text that an earlier row of this file replaced stays taken; it can be used in a second import.
        owner = self._texts.setdefault(normalized, instance.slug)
        if owner != instance.slug:
            raise text_rules.duplicate(owner)
        if instance.pk:
            if not self._new_revisions and instance.pk in self._with_images:
                raise catalogue.text_is_locked(instance.slug)
            instance.revision += 1
        instance.normalized_text = normalized
        self._variants.setdefault(instance.slug, instance)

    @cached_property
    def _with_images(self) -> set[int]:
        made = Image.objects.filter(job__variant=OuterRef("pk"))
        return set(PromptVariant.objects.filter(Exists(made)).values_list("pk", flat=True))

    @staticmethod
    def _values(variant: PromptVariant) -> tuple:
        return variant.text, list(variant.tags), variant.status, variant.notes

    def skip_row(
        self, instance: PromptVariant, original: Any, row: Any, import_validation_errors: Any = None
    ) -> bool:
        return not import_validation_errors and self._before == self._values(instance)

    def before_save_instance(self, instance: PromptVariant, row: Any, **kwargs: Any) -> None:
        instance.updated_at = self._now
        self._saved.append(instance)

    def bulk_update(
        self,
        using_transactions: bool,
        dry_run: bool,
        raise_errors: bool,
        batch_size: int | None = None,
        result: Any = None,
    ) -> None:
        # Not Django's bulk_update, whose CASE expressions took 30 s for 10,000 rows; this takes one second.
        try:
            PromptVariant.objects.bulk_create(
                self.update_instances,
                batch_size=batch_size,
                update_conflicts=True,
                unique_fields=["id"],
                update_fields=UPDATED,
            )
        except Exception as error:
            self.handle_import_error(result, error, raise_errors)
        finally:
            self.update_instances.clear()

    def after_import_row(self, row: Any, row_result: Any, **kwargs: Any) -> None:
        if self._on_progress:
            self._on_progress(1)

    def after_import(self, dataset: tablib.Dataset, result: Any, **kwargs: Any) -> None:
        # Rolled back after a dry run or an error.
        catalogue.publish_encode()
        if self._saved:
            slugs = [variant.slug for variant in self._saved]
            ids = PromptVariant.objects.filter(slug__in=slugs).order_by("pk")
            facts = {"new": result.totals["new"], "changed": result.totals["update"]}
            subject = editing.named(len(slugs))
            result.change = audit.record(
                editing.IMPORTED, subject, **facts, variants=list(ids.values_list("pk", flat=True))
            )


# --- without the admin ----------------------------------------------------------------------------
@dataclass(frozen=True)
class Report:
    """Result of an import or dry run. errors: (row of the file from 1, or None; message)."""

    new: int
    updated: int
    unchanged: int
    errors: list[tuple[int | None, str]]
    seconds: float


def read(path: Path) -> tablib.Dataset:
    """Read a file. Raises InvalidRequest."""
    file_format = format_of(path)
    try:
        return file_format.create_dataset(path.read_bytes())
    except OSError as error:
        raise InvalidRequest(f"{path}: {error.strerror}.") from error
    except (ValueError, csv.Error, tablib.exceptions.TablibException) as error:
        raise InvalidRequest(f"{path}: {error}") from error


def import_dataset(
    dataset: tablib.Dataset,
    *,
    dry_run: bool = False,
    new_revisions: bool = False,
    on_progress: Callable[[int], None] | None = None,
) -> Report:
    """Import in one transaction; any error rolls it back. Return the report. on_progress: called with 1 per row."""
    started = time.monotonic()
    resource = VariantResource(new_revisions=new_revisions, on_progress=on_progress)
    result = resource.import_data(
        dataset, dry_run=dry_run, use_transactions=True, rollback_on_validation_errors=True
    )
    errors: list[tuple[int | None, str]] = [
        (None, _message(error.error)) for error in result.base_errors
    ]
    errors += [(row.number, _message(row.error)) for row in result.invalid_rows]
    errors += [
        (row.number, _message(error.error)) for row in result.error_rows for error in row.errors
    ]
    totals = result.totals
    return Report(
        totals["new"], totals["update"], totals["skip"], errors, time.monotonic() - started
    )


def import_file(
    path: Path,
    *,
    dry_run: bool = False,
    new_revisions: bool = False,
    on_progress: Callable[[int], None] | None = None,
) -> Report:
    """Import a file and return the report. Raises InvalidRequest if it cannot be read."""
    return import_dataset(
        read(path), dry_run=dry_run, new_revisions=new_revisions, on_progress=on_progress
    )


def export_file(path: Path) -> int:
    """Write the whole catalogue. Return the number of variants. Raises InvalidRequest."""
    file_format = format_of(path)
    dataset = VariantResource().export(PromptVariant.objects.all())
    try:
        path.write_text(file_format.export_data(dataset), encoding="utf-8", newline="")
    except OSError as error:
        raise InvalidRequest(f"{path}: {error.strerror}.") from error
    return len(dataset)


def _message(error: Any) -> str:
    if isinstance(error, ValidationError):
        return " ".join(error.messages)
    return str(error)


def template() -> str:
    """Return a CSV file to fill in, with one row as an example."""
    example = (
        "",
        "an example text to replace",
        TagList(["vase", "red", "glass"]),
        "draft",
        "an example",
    )
    dataset = tablib.Dataset(example, headers=COLUMNS)
    return str(dataset.export("csv"))
