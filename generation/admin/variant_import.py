"""The admin's import of a large file: its preview shows the first rows only. The import itself is `resources`."""

from django.core.exceptions import ValidationError
from import_export import resources
from import_export.results import Result

from generation.catalogue.import_export import VariantResource
from generation.models import PromptVariant

PREVIEW_ROWS = 200


class PreviewResult(Result):
    """Keeps what the admin's page shows of a large file: its first rows, or its first errors."""

    def valid_rows(self) -> list:
        return super().valid_rows()[:PREVIEW_ROWS]

    def append_invalid_row(self, number: int, row: dict, validation_error: ValidationError) -> None:
        if len(self.invalid_rows) < PREVIEW_ROWS:
            super().append_invalid_row(number, row, validation_error)


class PreviewDiff(resources.Diff):
    """Differences as HTML, for the rows that are shown: 10,000 of them are 27 MB."""

    def as_html(self) -> list:
        if self.left == self.right and not self.new:
            return []  # an unchanged row, which is not shown
        self.resource.previewed += 1
        return super().as_html() if self.resource.previewed <= PREVIEW_ROWS else []

    def __init__(self, resource: "PreviewResource", instance: PromptVariant, new: bool) -> None:
        super().__init__(resource, instance, new)
        self.resource = resource


class PreviewResource(VariantResource):
    """What the admin imports with."""

    previewed = 0  # rows of this import that differ

    class Meta:
        skip_diff = False

    @classmethod
    def get_result_class(cls) -> type[Result]:
        return PreviewResult

    @classmethod
    def get_diff_class(cls) -> type[resources.Diff]:
        return PreviewDiff
