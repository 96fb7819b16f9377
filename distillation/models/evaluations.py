"""Evaluations: what a release's manifest says of how it was measured. No rows of their own."""

from generation.models import Release


class Evaluation(Release):
    """A release that was measured. The figures are in its manifest, and stay as long as it does."""

    class Meta:
        proxy = True
        ordering = ["-registered_at"]
        default_permissions = ("view",)
