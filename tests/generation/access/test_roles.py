"""Groups that bootstrap creates: the permissions of each in the admin."""

import pytest
from django.contrib.auth.models import Group, Permission, User
from django.test import Client
from django.urls import reverse

from generation.access import roles
from generation.admin.navigation import GROUPS

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("redis_server")]

CHANGED = {
    "Viewer": set(),
    "Reviewer": {"distillation_example"},
    "Editor": {
        "generation_promptvariant", "generation_release", "distillation_run", "distillation_imagesource",
        "distillation_example", "generation_apikey",
    },
    "Operator": {
        "generation_job", "generation_release", "generation_queue", "generation_webhookendpoint",
        "generation_delivery", "generation_apikey", "distillation_run", "django_celery_beat_periodictask",
    },
}  # fmt: skip


def member(role: str) -> User:
    user = User.objects.create_user(role.lower(), is_staff=True)
    user.groups.add(Group.objects.get(name=role))
    return user


@pytest.mark.parametrize("role", CHANGED)
def test_each_role_opens_its_pages_and_changes_only_its_own_models(role: str):
    """Pages that Reviewer and Editor only view are those of Viewer."""
    roles.create_missing()
    user, client = member(role), Client()
    client.force_login(user)
    models = [model for links in GROUPS.values() for _, model in links]
    menu = client.get("/admin/").content.decode()
    for model in models:
        app, _, name = model.rpartition("_")
        assert user.has_perm(f"{app}.change_{name}") == (model in CHANGED[role]), model
        place = reverse(f"admin:{model}_changelist")
        is_shown = user.has_perm(f"{app}.view_{name}")
        assert (f'href="{place}"' in menu) == is_shown, model
        if role in ("Viewer", "Operator") or model in CHANGED[role] or not is_shown:
            assert client.get(place).status_code == (200 if is_shown else 403), model
    assert not user.has_perm("auth.view_user")


def test_existing_groups_are_not_changed():
    assert roles.create_missing() == list(CHANGED)
    group = Group.objects.get(name="Editor")
    group.permissions.set(Permission.objects.filter(codename="view_job"))
    Group.objects.get(name="Viewer").delete()
    assert roles.create_missing() == ["Viewer"]
    assert [one.codename for one in group.permissions.all()] == ["view_job"]
