"""Default groups of permissions, which `manage.py bootstrap` creates. It does not overwrite later changes."""

from django.contrib.auth.models import Group, Permission
from django.db.models import Value
from django.db.models.functions import Concat

VIEWED = (
    "generation.promptvariant", "generation.job", "generation.release", "generation.stockedimage", "generation.worker",
    "generation.queue", "generation.webhookendpoint", "generation.delivery", "distillation.run", "distillation.design",
    "distillation.evaluation", "distillation.decision", "distillation.imagesource", "distillation.example",
    "distillation.detector", "django_celery_beat.periodictask", "generation.auditentry",
)  # fmt: skip
# The admin shows only a person's own keys, except to superusers.
KEYS = ("generation.view_apikey", "generation.add_apikey", "generation.change_apikey")
REVIEWS = ("distillation.change_example",)
EDITS = (
    "generation.add_promptvariant", "generation.change_promptvariant", "generation.add_job",
    "generation.change_release", "distillation.add_run", "distillation.change_run", "distillation.add_imagesource",
    "distillation.change_imagesource", *KEYS,
)  # fmt: skip
OPERATES = (
    "generation.change_job", "generation.change_release", "generation.change_queue",
    "generation.change_webhookendpoint", "generation.change_delivery", "distillation.change_run",
    "django_celery_beat.change_periodictask", *KEYS,
)  # fmt: skip
ROLES: dict[str, tuple[str, ...]] = {
    "Viewer": (),
    "Reviewer": REVIEWS,
    "Editor": (*REVIEWS, *EDITS),
    "Operator": OPERATES,
}


def create_missing() -> list[str]:
    """Create the missing groups with their permissions, and return their names. Existing ones are not changed."""
    present = set(Group.objects.filter(name__in=ROLES).values_list("name", flat=True))
    missing = [name for name in ROLES if name not in present]
    for name in missing:
        Group.objects.create(name=name).permissions.set(_permissions(name))
    return missing


def _permissions(role: str) -> list[Permission]:
    wanted = {*(".view_".join(model.split(".")) for model in VIEWED), *ROLES[role]}
    full = Concat("content_type__app_label", Value("."), "codename")
    return list(Permission.objects.annotate(full_name=full).filter(full_name__in=wanted))
