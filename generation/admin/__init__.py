"""Admin pages, one module per subject. They show rows and call the app's functions."""

from django.contrib import admin

from generation.admin import (
    access,
    audit,
    jobs,
    queues,
    releases,
    stock,
    variants,
    webhooks,
    workers,
)

__all__ = [
    "access",
    "audit",
    "jobs",
    "queues",
    "releases",
    "stock",
    "variants",
    "webhooks",
    "workers",
]

admin.site.index_template = "generation/admin/index.html"
admin.site.index_title = "Overview"
