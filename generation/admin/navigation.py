"""Menu of the admin's sidebar."""

from typing import Any

from django.http import HttpRequest
from django.urls import reverse_lazy

# Title of a group → title, icon and model of each link.
GROUPS = {
    "Pictures": (
        ("Prompt variants", "menu_book", "generation_promptvariant"),
        ("Jobs", "pending_actions", "generation_job"),
        ("Releases", "deployed_code", "generation_release"),
        ("Stock", "inventory_2", "generation_stockedimage"),
        ("Workers", "memory", "generation_worker"),
        ("Queues", "traffic", "generation_queue"),
        ("Webhooks", "webhook", "generation_webhookendpoint"),
        ("Webhook deliveries", "outbox", "generation_delivery"),
    ),
    "Redistillation": (
        ("Runs", "cycle", "distillation_run"),
        ("Designs", "tune", "distillation_design"),
        ("Evaluations", "compare", "distillation_evaluation"),
        ("Decisions", "rule", "distillation_decision"),
        ("Image sources", "folder_open", "distillation_imagesource"),
        ("Examples", "photo_library", "distillation_example"),
        ("Detectors", "troubleshoot", "distillation_detector"),
        ("Schedule", "schedule", "django_celery_beat_periodictask"),
    ),
    "Access": (
        ("API keys", "key", "generation_apikey"),
        ("Users", "person", "auth_user"),
        ("Groups", "group", "auth_group"),
        ("Audit log", "history", "generation_auditentry"),
    ),
}


def navigation(request: HttpRequest) -> list[dict[str, Any]]:
    """Return the groups of links to what this person may see, as Unfold expects them."""
    groups = [
        {
            "title": title,
            "separator": True,
            "items": [
                {"title": name, "icon": icon, "link": reverse_lazy(f"admin:{model}_changelist")}
                for name, icon, model in links
                if may_view(request, model)
            ],
        }
        for title, links in GROUPS.items()
    ]
    return [group for group in groups if group["items"]]


def may_view(request: HttpRequest, model: str) -> bool:
    """Return whether the person may view or change rows of the model, such as generation_job."""
    app, _, name = model.rpartition("_")
    may = request.user.has_perm
    return may(f"{app}.view_{name}") or may(f"{app}.change_{name}")
