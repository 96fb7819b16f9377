"""Audit log: every change of a key or a release has an entry with its actor."""

import getpass
import os
from pathlib import Path

import pytest
from celery import shared_task
from django.contrib.auth.models import Permission
from django.core.management import call_command
from django.db import connection, transaction
from django.test import Client
from django.urls import reverse

from generation.access import audit, keys
from generation.errors import ReleaseRefused
from generation.models import AuditEntry, Release
from generation.releases import lifecycle as releases
from generation.releases import quality
from tests.factories import make_key, make_release, make_user
from tests.tiny import make_tiny_release

pytestmark = pytest.mark.django_db


def last() -> AuditEntry:
    return AuditEntry.objects.order_by("-pk")[0]


def actions(subject: str) -> list[str]:
    return list(
        AuditEntry.objects.filter(subject=subject).order_by("pk").values_list("action", flat=True)
    )


@pytest.fixture
def admin() -> Client:
    client = Client()
    client.force_login(make_user(username="ada", is_superuser=True))
    return client


# --- the actor ------------------------------------------------------------------------------------
def test_a_change_in_the_admin_is_recorded_with_its_user(admin):
    key, _ = make_key()

    admin.post(reverse("admin:generation_apikey_do", args=[key.pk, "revoke"]))

    assert (last().actor, last().via, last().action) == ("ada", "admin", "key_revoked")


def test_a_change_by_a_command_is_recorded_with_the_systems_user():
    make_user(username="shop")

    call_command("apikey", "create", "--owner", "shop", "--name", "x")

    assert (last().actor, last().via, last().action) == (getpass.getuser(), "command", "key_issued")


def test_a_user_of_the_system_without_a_name_is_recorded_as_a_number(monkeypatch):
    def no_user() -> str:
        raise OSError("no username")

    monkeypatch.setattr(getpass, "getuser", no_user)

    audit.record("key_issued", "x")

    assert last().actor == f"uid {os.getuid()}"


@shared_task(name="tests.audited")
def audited() -> None:
    audit.record("release_activated", "by a task")


def test_a_change_by_a_task_is_recorded_as_the_schedules_and_a_later_one_is_not():
    audited.apply(throw=True)
    audit.record("release_activated", "after it")

    by_task, after = AuditEntry.objects.order_by("pk")
    assert (by_task.actor, by_task.via) == ("", "schedule")
    assert after.via == "command"


def test_a_change_over_the_api_is_recorded_with_the_keys_owner(rf):
    from generation.api.middleware import actor

    request = rf.post("/v1/runs")
    request.user = make_user(username="owner of the key")

    actor(lambda request: audit.record("release_activated", "x"))(request)

    assert (last().actor, last().via) == ("owner of the key", "api")


# --- recorded changes -----------------------------------------------------------------------------
def registered(folder: Path, name: str) -> Release:
    make_tiny_release(folder / name, name=name)
    return releases.register(folder / name)


def test_every_change_of_a_releases_status_is_recorded(tmp_path):
    first, second, third = (registered(tmp_path, name) for name in ("first", "second", "third"))
    releases.activate(first)
    releases.activate(second)
    releases.rollback("teacher")
    quality.edit(first, "max_tries", 3)
    releases.begin_canary(third, 10)
    releases.end_canary(third)
    releases.begin_canary(third, 10)
    releases.reject(third, reason="9% of 100 jobs failed.")
    releases.reject(second)

    assert actions("first") == [
        "release_registered",
        "release_activated",
        "release_retired",
        "release_rolled_back",
        "release_edited",
    ]
    assert actions("second") == [
        "release_registered",
        "release_activated",
        "release_retired",
        "release_rejected",
    ]
    assert actions("third") == [
        "release_registered",
        "canary_begun",
        "canary_ended",
        "canary_begun",
        "canary_withdrawn",
    ]
    assert AuditEntry.objects.get(action="canary_withdrawn").detail == {
        "reason": "9% of 100 jobs failed."
    }
    assert AuditEntry.objects.get(subject="second", action="release_activated").detail == {
        "replaced": "first"
    }


def test_activating_a_canary_is_recorded_as_its_promotion(tmp_path):
    releases.activate(registered(tmp_path, "first"))
    tried = registered(tmp_path, "tried")
    releases.begin_canary(tried, 10)

    releases.activate(tried, reason="200 jobs without getting worse.")

    assert last().action == "canary_promoted"
    assert last().detail == {"reason": "200 jobs without getting worse.", "replaced": "first"}


def test_refused_and_rolled_back_changes_are_not_recorded():
    active = make_release()
    with pytest.raises(ReleaseRefused):
        releases.reject(active)
    with pytest.raises(RuntimeError), transaction.atomic():
        keys.issue(make_user(), "x", ["jobs:read"])
        raise RuntimeError

    assert not AuditEntry.objects.exists()


def test_actions_without_effect_are_not_recorded():
    release = make_release(status=Release.Status.CANDIDATE)
    quality.edit(release, "max_tries", release.max_tries)
    releases.end_canary(release)

    assert not AuditEntry.objects.exists()


# --- the page -------------------------------------------------------------------------------------
def page(client: Client, **query: str):
    return client.get(reverse("admin:generation_auditentry_changelist"), query)


def test_a_backup_of_a_revision_without_an_audit_log_is_not_recorded():
    made_at = "2026-11-28T12:00:00+00:00"
    with connection.cursor() as cursor:
        cursor.execute("ALTER TABLE generation_auditentry RENAME TO later")
        audit.record_backup(audit.BACKUP_WRITTEN, "retort.tar", made_at=made_at)
        cursor.execute("ALTER TABLE later RENAME TO generation_auditentry")
    assert audit.last_backup() is None
    audit.record_backup(audit.BACKUP_WRITTEN, "retort.tar", made_at=made_at)
    assert audit.last_backup().isoformat() == made_at


def test_the_log_is_listed_filtered_and_searched(admin):
    key, _ = keys.issue(make_user(), "shop", ["jobs:read"], limits={"images_per_day": 5})
    keys.revoke(key)
    audit.record("release_activated", "student-1", replaced="student-0")

    keys.set_limits(key, {"images_per_day": None})
    html = page(admin).content.decode()

    assert "images_per_day: 5" in html and "replaced: student-0" in html
    assert "images_per_day: 5 → null" in html and "scopes: jobs:read;" in html
    assert "key revoked" in page(admin, action="key_revoked").content.decode()
    assert "student-1" not in page(admin, action="key_revoked").content.decode()
    assert "student-1" in page(admin, q="student").content.decode()
    assert "shop" not in page(admin, q="student").content.decode()


def test_the_log_cannot_be_changed(admin):
    entry = AuditEntry.objects.create(actor="a", via="admin", action="key_issued", subject="x")
    change = reverse("admin:generation_auditentry_change", args=[entry.pk])

    assert admin.get(change).status_code == 200
    assert admin.post(change, {"actor": "b"}).status_code == 403
    assert admin.get(reverse("admin:generation_auditentry_add")).status_code == 403
    admin.post(reverse("admin:generation_auditentry_delete", args=[entry.pk]), {"post": "yes"})
    chosen = {"action": "delete_selected", "_selected_action": [entry.pk], "post": "yes"}
    admin.post(reverse("admin:generation_auditentry_changelist"), chosen)
    assert AuditEntry.objects.get().actor == "a"


def test_staff_need_the_permission_to_read_the_log():
    user = make_user(username="editor", is_staff=True)
    client = Client()
    client.force_login(user)
    assert page(client).status_code == 403

    user.user_permissions.set(Permission.objects.filter(codename="view_auditentry"))

    assert page(client).status_code == 200
