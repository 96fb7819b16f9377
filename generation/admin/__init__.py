"""The admin, one module per noun. Shows rows and calls the app's functions; changes no state by itself."""

from django.contrib import admin

from generation.admin import access, audit, jobs, releases, variants, webhooks, workers

__all__ = ["access", "audit", "jobs", "releases", "variants", "webhooks", "workers"]

admin.site.index_template = "generation/admin/index.html"
admin.site.index_title = "Overview"
