"""Evaluations of releases: a proxy of Release, whose manifest has the figures."""

from generation.models import Release


class Evaluation(Release):
    """A release with an evaluation in its manifest."""

    class Meta:
        proxy = True
        ordering = ["-registered_at"]
        default_permissions = ("view",)
