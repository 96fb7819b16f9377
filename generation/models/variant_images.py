"""Rows of variant images, which show everybody what a prompt variant looks like."""

import uuid
from pathlib import PurePosixPath

from django.db import models

from generation.models.catalogue import PromptVariant
from generation.models.releases import Release


class VariantImage(models.Model):
    """The image of a prompt variant by the release that serves it. Written by `jobs.variant_images` only.

    A new image is a new row, so that the content of a link never changes. Without constraints in the database, since
    the previous release deletes variants and releases without these rows; retention removes the remaining ones.
    """

    id = models.UUIDField(primary_key=True, default=uuid.uuid4)
    variant = models.OneToOneField(
        PromptVariant, on_delete=models.CASCADE, related_name="variant_image", db_constraint=False
    )
    release = models.ForeignKey(
        Release, on_delete=models.CASCADE, related_name="+", db_constraint=False
    )
    revision = models.PositiveIntegerField(help_text="Revision of the variant's text.")
    file = models.CharField(max_length=200, db_index=True)

    def __str__(self) -> str:
        return f"{self.variant_id} r{self.revision} {self.release_id}"

    @property
    def sha256(self) -> str:
        """Return the hash of the file's content, which is its name."""
        return PurePosixPath(self.file).stem
