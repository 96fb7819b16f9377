"""Menu of the admin's sidebar."""

from typing import Any

from django.http import HttpRequest
from django.urls import reverse_lazy


def navigation(request: HttpRequest) -> list[dict[str, Any]]:
    """Return the groups of links, as Unfold expects them."""
    return [
        {
            "title": "Pictures",
            "items": [
                {
                    "title": "Prompt catalogue",
                    "icon": "menu_book",
                    "link": reverse_lazy("admin:generation_promptvariant_changelist"),
                },
                {
                    "title": "Jobs",
                    "icon": "pending_actions",
                    "link": reverse_lazy("admin:generation_job_changelist"),
                },
                {
                    "title": "Releases",
                    "icon": "deployed_code",
                    "link": reverse_lazy("admin:generation_release_changelist"),
                },
                {
                    "title": "Workers",
                    "icon": "memory",
                    "link": reverse_lazy("admin:generation_worker_changelist"),
                },
                {
                    "title": "Webhooks",
                    "icon": "webhook",
                    "link": reverse_lazy("admin:generation_webhookendpoint_changelist"),
                },
                {
                    "title": "Webhook deliveries",
                    "icon": "outbox",
                    "link": reverse_lazy("admin:generation_delivery_changelist"),
                },
            ],
        },
        {
            "title": "Redistillation",
            "separator": True,
            "items": [
                {
                    "title": "Runs",
                    "icon": "cycle",
                    "link": reverse_lazy("admin:distillation_run_changelist"),
                },
                {
                    "title": "Evaluations",
                    "icon": "compare",
                    "link": reverse_lazy("admin:distillation_evaluation_changelist"),
                },
                {
                    "title": "Decisions",
                    "icon": "rule",
                    "link": reverse_lazy("admin:distillation_decision_changelist"),
                },
                {
                    "title": "Image sources",
                    "icon": "folder_open",
                    "link": reverse_lazy("admin:distillation_imagesource_changelist"),
                },
                {
                    "title": "Examples",
                    "icon": "photo_library",
                    "link": reverse_lazy("admin:distillation_example_changelist"),
                },
                {
                    "title": "Detectors",
                    "icon": "troubleshoot",
                    "link": reverse_lazy("admin:distillation_detector_changelist"),
                },
                {
                    "title": "Schedule",
                    "icon": "schedule",
                    "link": reverse_lazy("admin:django_celery_beat_periodictask_changelist"),
                },
            ],
        },
        {
            "title": "Access",
            "separator": True,
            "items": [
                {
                    "title": "API keys",
                    "icon": "key",
                    "link": reverse_lazy("admin:generation_apikey_changelist"),
                },
                {
                    "title": "Users",
                    "icon": "person",
                    "link": reverse_lazy("admin:auth_user_changelist"),
                },
                {
                    "title": "Groups",
                    "icon": "group",
                    "link": reverse_lazy("admin:auth_group_changelist"),
                },
                {
                    "title": "Audit log",
                    "icon": "history",
                    "link": reverse_lazy("admin:generation_auditentry_changelist"),
                },
            ],
        },
    ]
