"""Import and export of the catalogue as CSV or JSON. An import is one transaction; the rules are in `variants`."""

import csv
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import tablib
from django.core.exceptions import ValidationError
from django.core.validators import validate_slug
from django.db import IntegrityError
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

UPDATED = ("tags", "status", "notes", "updated_at")
UPDATED_WITH_TEXT = ("text", "normalized_text", "revision", *UPDATED)
BATCH_SIZE = 1000  # rows per INSERT or UPDATE
ATTEMPTS = 2  # the first one fails if another process adds one of the variants meanwhile


# --- the resource ---------------------------------------------------------------------------------
class VariantResource(resources.ModelResource):
    """Import of rows as variants, which are found by slug, or by text if the slug is empty.

    new_revisions: whether texts of variants with images may change; first_row: number of the first row, in errors.
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
        self,
        *,
        new_revisions: bool = False,
        on_progress: Callable[[int], None] | None = None,
        first_row: int = 1,
    ) -> None:
        super().__init__()
        self._first_row = first_row
        self._new_revisions = new_revisions
        self._on_progress = on_progress
        self._variants: dict[str, PromptVariant] = {}  # by slug
        self._texts: dict[str, str] = {}  # normalised text → slug
        self._seen: dict[str, int] = {}  # slug → row of the file
        self._limits: list[text_rules.Limit] = []
        self._before: tuple | None = None
        self._saved: list[PromptVariant] = []
        self._with_new_texts: set[int] = set()

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
        number, errors = kwargs["row_number"] - 1 + self._first_row, {}
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
            self._with_new_texts.add(instance.pk)
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
        # Texts only if they change: a statement that sets a unique column takes a lock for which inserting a job waits.
        changes: dict[tuple[str, ...], list[PromptVariant]] = {UPDATED: [], UPDATED_WITH_TEXT: []}
        for variant in self.update_instances:
            is_new = variant.pk in self._with_new_texts
            changes[UPDATED_WITH_TEXT if is_new else UPDATED].append(variant)
        try:
            for columns, variants in changes.items():
                PromptVariant.objects.bulk_create(
                    variants,
                    batch_size=batch_size,
                    update_conflicts=True,
                    unique_fields=["id"],
                    update_fields=columns,
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
class RowError:
    """Error in a row. row: number of the row; field: column."""

    row: int
    field: str
    message: str


@dataclass(frozen=True)
class Report:
    """Result of an import or dry run."""

    new: int
    updated: int
    unchanged: int
    errors: list[RowError]
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
    first_row: int = 1,
) -> Report:
    """Import in one transaction; any error rolls it back. Return the report.

    on_progress: called with 1 per row; first_row: number of the first row, in errors.
    """
    started = time.monotonic()
    for _ in range(ATTEMPTS):
        resource = VariantResource(
            new_revisions=new_revisions, on_progress=on_progress, first_row=first_row
        )
        result = resource.import_data(
            dataset, dry_run=dry_run, use_transactions=True, rollback_on_validation_errors=True
        )
        unexpected = [error.error for error in result.base_errors]
        unexpected += [error.error for row in result.error_rows for error in row.errors]
        if not any(isinstance(error, IntegrityError) for error in unexpected):
            break
    if unexpected:
        raise unexpected[0]
    errors = [
        RowError(row.number - 1 + first_row, field, " ".join(messages))
        for row in result.invalid_rows
        for field, messages in row.error.message_dict.items()
    ]
    totals = result.totals
    return Report(
        totals["new"], totals["update"], totals["skip"], errors, time.monotonic() - started
    )


def import_rows(
    rows: Sequence[Mapping[str, Any]], *, dry_run: bool = False, new_revisions: bool = False
) -> Report:
    """Import rows with values by column; a missing one keeps the stored value. Return the report, with rows from 0."""
    dataset = tablib.Dataset(
        *([row.get(column) for column in COLUMNS] for row in rows), headers=COLUMNS
    )
    return import_dataset(dataset, dry_run=dry_run, new_revisions=new_revisions, first_row=0)


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
