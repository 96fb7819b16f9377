"""Menu of the admin's sidebar."""

from typing import Any

from django.apps import apps
from django.http import HttpRequest
from django.urls import reverse_lazy
from django.utils.text import capfirst

# Title of a group → icon and model of each link. A link is titled by its model.
GROUPS = {
    "Pictures": (
        ("menu_book", "generation_promptvariant"),
        ("pending_actions", "generation_job"),
        ("deployed_code", "generation_release"),
        ("inventory_2", "generation_stockedimage"),
        ("memory", "generation_worker"),
        ("traffic", "generation_queue"),
        ("webhook", "generation_webhookendpoint"),
        ("outbox", "generation_delivery"),
    ),
    "Redistillation": (
        ("cycle", "distillation_run"),
        ("tune", "distillation_design"),
        ("compare", "distillation_evaluation"),
        ("rule", "distillation_decision"),
        ("folder_open", "distillation_imagesource"),
        ("photo_library", "distillation_example"),
        ("troubleshoot", "distillation_detector"),
        ("schedule", "django_celery_beat_periodictask"),
    ),
    "Access": (
        ("key", "generation_apikey"),
        ("person", "auth_user"),
        ("group", "auth_group"),
        ("history", "generation_auditentry"),
    ),
}


def navigation(request: HttpRequest) -> list[dict[str, Any]]:
    """Return the groups of links that the user may follow, in unfold's format."""
    groups = [
        {
            "title": title,
            "separator": True,
            "items": [
                {
                    "title": _name(model),
                    "icon": icon,
                    "link": reverse_lazy(f"admin:{model}_changelist"),
                }
                for icon, model in links
                if may_view(request, model)
            ],
        }
        for title, links in GROUPS.items()
    ]
    return [group for group in groups if group["items"]]


def _name(model: str) -> str:
    """Return the title of the model's pages."""
    app, _, name = model.rpartition("_")
    return capfirst(apps.get_model(app, name)._meta.verbose_name_plural)


def may_view(request: HttpRequest, model: str) -> bool:
    """Return whether the user may view or change rows of the model, such as generation_job."""
    app, _, name = model.rpartition("_")
    may = request.user.has_perm
    return may(f"{app}.view_{name}") or may(f"{app}.change_{name}")
