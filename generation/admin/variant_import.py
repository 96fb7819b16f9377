"""Preview of an import in the admin: its first rows, and its file until then. `VariantResource` does the import."""

import base64
from typing import Any
from uuid import uuid4

import tablib
from django.core.exceptions import ValidationError
from import_export import resources
from import_export.results import Result
from import_export.tmp_storages import BaseStorage

from generation.catalogue import unknown_words
from generation.catalogue.import_export import VariantResource
from generation.catalogue.unknown_words import Vocabulary
from generation.infra import redis_client
from generation.models import PromptVariant

PREVIEW_ROWS = 200
KEPT_SECONDS = 24 * 3600


class PreviewedFile(BaseStorage):
    """A file between preview and import, in Redis: each web host finds it, and one that nobody imports expires."""

    def _key(self) -> str:
        return f"retort:import:{self.name}"

    def save(self, data: bytes) -> None:
        self.name = uuid4().hex
        redis_client.client().set(self._key(), base64.b64encode(data), ex=KEPT_SECONDS)

    def read(self) -> bytes:
        """Return the content. Raises FileNotFoundError."""
        found = redis_client.client().get(self._key())
        if found is None:
            raise FileNotFoundError(self.name)
        return base64.b64decode(found)

    def remove(self) -> None:
        redis_client.client().delete(self._key())


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
