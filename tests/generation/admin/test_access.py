"""Users and groups in the admin: the audit log has each change, without passwords."""

import pytest
from django.contrib.auth.models import Group, Permission, User
from django.test import Client
from django.urls import reverse

from generation.models import AuditEntry
from tests.factories import make_user

pytestmark = pytest.mark.django_db

PASSWORD = "correct horse battery staple"


@pytest.fixture
def admin() -> Client:
    client = Client()
    client.force_login(make_user(username="admin", is_superuser=True))
    return client


def url(model: str, page: str, *args: object) -> str:
    return reverse(f"admin:auth_{model}_{page}", args=args)


def entries() -> list[tuple[str, str, dict]]:
    """Return the entries, oldest first, and assert that the admin's user wrote them."""
    rows = AuditEntry.objects.order_by("pk")
    assert {(row.actor, row.via) for row in rows} <= {("admin", "admin")}
    return [(row.action, row.subject, row.detail) for row in rows]


def send(client: Client, page: str, **given: object) -> None:
    answer = client.post(page, given)
    assert answer.status_code == 302, answer.content.decode()[-3000:]


def test_changes_of_a_user_are_in_the_audit_log_without_passwords(admin):
    passwords = {"password1": PASSWORD, "password2": PASSWORD, "usable_password": "true"}
    send(admin, url("user", "add"), username="new", **passwords)
    person = User.objects.get(username="new")
    editors = Group.objects.create(name="Editors")
    form = {"username": "new", "date_joined_0": "2026-01-01", "date_joined_1": "00:00:00",
            "limits-TOTAL_FORMS": "0", "limits-INITIAL_FORMS": "0"}  # fmt: skip
    User.objects.filter(pk=person.pk).update(date_joined="2026-01-01T00:00:00Z")
    send(admin, url("user", "change", person.pk), **form, is_staff="on", groups=[editors.pk])
    send(admin, url("user", "change", person.pk), **form, is_staff="on", groups=[editors.pk])
    other = {"password1": PASSWORD[::-1], "password2": PASSWORD[::-1], "usable_password": "true"}
    send(admin, reverse("admin:auth_user_password_change", args=[person.pk]), **other)
    send(admin, url("user", "delete", person.pk), post="yes")

    assert entries() == [
        ("user_added", "new", {"username": "new"}),
        ("user_edited", "new", {
            "is_active": [True, False], "is_staff": [False, True], "groups": ["", "Editors"]}),
        ("user_password_changed", "new", {}),
        ("user_deleted", "new", {}),
    ]  # fmt: skip
    assert PASSWORD not in str(entries())


def test_changes_of_a_group_are_in_the_audit_log(admin):
    views, adds = (Permission.objects.get(codename=f"{verb}_job") for verb in ("view", "add"))
    send(admin, url("group", "add"), name="Makers", permissions=[views.pk])
    group = Group.objects.get(name="Makers")
    send(admin, url("group", "change", group.pk), name="Makers", permissions=[views.pk, adds.pk])
    chosen = {"action": "delete_selected", "_selected_action": [group.pk], "post": "yes"}
    send(admin, url("group", "changelist"), **chosen)

    assert entries() == [
        ("group_added", "Makers", {"name": "Makers", "permissions": str(views)}),
        ("group_edited", "Makers", {"permissions": [str(views), ", ".join(sorted(map(str, (views, adds))))]}),
        ("group_deleted", "Makers", {}),
    ]  # fmt: skip
