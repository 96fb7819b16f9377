"""Rows of images that their owners marked as favourites."""

from django.conf import settings
from django.db import models

from generation.models.jobs import Image


class Favourite(models.Model):
    """An image that its owner wants to find again."""

    owner = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        on_delete=models.CASCADE,
        related_name="favourites",
        db_index=False,  # the constraint has an index that begins with it
        db_constraint=False,
    )
    # No constraint: code without this table (an earlier version) may delete images. Orphaned rows are never shown.
    image = models.ForeignKey(
        Image, on_delete=models.CASCADE, related_name="favourites", db_constraint=False
    )
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["owner", "image"], name="one_favourite_per_owner_and_image"
            )
        ]

    def __str__(self) -> str:
        return str(self.image_id)
