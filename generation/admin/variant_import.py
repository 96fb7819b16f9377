"""Preview of an import in the admin, limited to its first rows. `VariantResource` does the import."""

from typing import Any

import tablib
from django.core.exceptions import ValidationError
from import_export import resources
from import_export.results import Result

from generation.catalogue import unknown_words
from generation.catalogue.import_export import VariantResource
from generation.catalogue.unknown_words import Vocabulary
from generation.models import PromptVariant

PREVIEW_ROWS = 200


class PreviewResult(Result):
    """Import result that keeps only the first rows and errors, for display."""

    def valid_rows(self) -> list:
        return super().valid_rows()[:PREVIEW_ROWS]

    def append_invalid_row(self, number: int, row: dict, validation_error: ValidationError) -> None:
        if len(self.invalid_rows) < PREVIEW_ROWS:
            super().append_invalid_row(number, row, validation_error)


class PreviewDiff(resources.Diff):
    """Differences as HTML, only for displayed rows: 10,000 would take 27 MB."""

    def as_html(self) -> list:
        if self.left == self.right and not self.new:
            return []  # unchanged rows are not shown
        self.resource.previewed += 1
        return super().as_html() if self.resource.previewed <= PREVIEW_ROWS else []

    def __init__(self, resource: "PreviewResource", instance: PromptVariant, new: bool) -> None:
        super().__init__(resource, instance, new)
        self.resource = resource


class PreviewResource(VariantResource):
    """Import resource for the admin."""

    previewed = 0  # number of changed rows so far

    def after_import(self, dataset: tablib.Dataset, result: Any, **kwargs: Any) -> None:
        super().after_import(dataset, result, **kwargs)
        if unknown := Vocabulary().count(str(text or "") for text in dataset["text"]):
            result.unknown_words = unknown_words.sentence(unknown)

    class Meta:
        skip_diff = False

    @classmethod
    def get_result_class(cls) -> type[Result]:
        return PreviewResult

    @classmethod
    def get_diff_class(cls) -> type[resources.Diff]:
        return PreviewDiff
