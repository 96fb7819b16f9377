"""The pages of redistillation: begin a run, watch it, steer it, read what the gate said, change the schedule."""

import json
from pathlib import Path

import pytest
from django.contrib.auth.models import Permission
from django.test import Client
from django.urls import reverse
from django_celery_beat.models import IntervalSchedule, PeriodicTask

from distillation import runs
from distillation.models import Decision, Run
from tests.distillation.people import make_run
from tests.people import make_release, make_user, make_variant

pytestmark = pytest.mark.django_db


@pytest.fixture
def admin() -> Client:
    client = Client()
    client.force_login(make_user(username="admin", is_superuser=True))
    return client


def url(page: str, *args: object, model: str = "run") -> str:
    return reverse(f"admin:distillation_{model}_{page}", args=args)


def text(answer) -> str:
    return answer.content.decode()


# --- beginning ------------------------------------------------------------------------------------
def test_a_person_begins_a_run_and_a_second_one_is_refused_in_words(admin, settings):
    make_release(name="teacher-1", kind="teacher")
    make_variant()
    page = admin.get(url("add"))
    assert settings.DISTILLATION_RECIPE in text(page)
    given = {"recipe": "starter-2step", "trains_on": "on", "policy": "manual"}
    assert admin.post(url("add"), given).status_code == 302
    run = Run.objects.get()
    assert (run.recipe, run.policy) == ({"recipe": "starter-2step"}, "manual")
    assert (run.trigger, run.created_by.username) == ("person", "admin")

    answer = admin.post(url("add"), given, follow=True)
    assert f"The run {run.name} of teacher-1 is queued" in text(answer)
    assert Run.objects.count() == 1


def test_a_recipe_file_that_is_not_there_is_said_at_the_field(admin):
    given = {"recipe": "nowhere.json", "trains_on": "on", "policy": "auto"}
    answer = admin.post(url("add"), given)
    assert "cannot be read as JSON" in text(answer) and not Run.objects.exists()


# --- watching -------------------------------------------------------------------------------------
@pytest.fixture
def running(settings) -> Run:
    """In its second slice, with a curve and a finished evaluation."""
    run = make_run(folders={"joint": "joint-1", "evaluation": "evaluation-1"}, variants=7)
    runs.renew(runs.claim("worker-1")[1], stage="joint", percent=42.0)
    root = Path(settings.DATA_DIR) / "distillation"
    for name in run.folders.values():
        (root / name).mkdir(parents=True)
    lines = [json.dumps({"step": step, "loss": 1 / step}) for step in range(1, 1001)]
    (root / "joint-1" / "metrics.jsonl").write_text("\n".join([*lines, '{"step": 10']))
    (root / "evaluation-1" / "report.html").write_text("<h1>Report</h1>")
    (root / "evaluation-1" / "sheet.webp").write_bytes(b"RIFF")
    return Run.objects.get(pk=run.pk)


def test_the_page_polls_how_far_it_is_with_the_curve_of_its_losses(admin, running):
    now = admin.get(url("now", running.pk)).json()
    assert (now["status"], now["stage"], now["percent"], now["slice"]) == ("running", "joint", 42.0, 2)  # fmt: skip
    (curve,) = now["curves"]
    assert curve["stage"] == "joint" and curve["steps"][-1] == 1000
    assert len(curve["values"]) == 200 and curve["values"] == sorted(curve["values"], reverse=True)
    page = text(admin.get(url("change", running.pk)))
    for part in ("run-progress", "7 prompt variants", "#2", "over", url("now", running.pk)):
        assert part in page


def test_the_report_is_shown_and_may_run_nothing(admin, running):
    answer = admin.get(url("file", running.pk, "report"))
    assert text(answer) == "<h1>Report</h1>"
    assert "default-src 'none'" in answer["Content-Security-Policy"]
    assert url("file", running.pk, "sheet") in text(admin.get(url("change", running.pk)))
    assert admin.get(url("file", running.pk, "attributes")).status_code == 404
    assert admin.get(url("file", running.pk, "..")).status_code == 404


def test_what_the_gate_said_is_on_the_page(admin, running):
    check = {"name": "diversity to active", "passed": False, "limit": 0.9, "found": 0.71,
             "low": 0.68, "detail": "It collapsed."}  # fmt: skip
    hold = runs.Hold(running.pk, running.token)
    runs.finish(hold, gate={"passed": False, "checks": [check]}, outcome="rejected")
    page = text(admin.get(url("change", running.pk)))
    for part in ("diversity to active", "0.710, at least 0.680", "It collapsed.", "rejected"):
        assert part in page
    assert "run-progress" not in page


def test_who_may_not_see_runs_sees_none_of_it(running):
    client = Client()
    user = make_user(username="editor", is_staff=True)
    client.force_login(user)
    for page, *args in (("now",), ("file", "report"), ("change",)):
        assert client.get(url(page, running.pk, *args)).status_code == 403
    user.user_permissions.set(Permission.objects.filter(codename="view_run"))
    assert client.get(url("now", running.pk)).status_code == 200
    assert client.post(url("do", running.pk, "cancel")).status_code == 403
    assert Run.objects.get(pk=running.pk).status == "running"


# --- steering -------------------------------------------------------------------------------------
def test_the_buttons_pause_resume_and_cancel(admin, running):
    for name, status in (("pause", "paused"), ("resume", "queued"), ("cancel", "canceled")):
        answer = admin.post(url("do", running.pk, name), follow=True)
        assert f"{running.name} is {status}." in text(answer)
    answer = admin.post(url("do", running.pk, "pause"), follow=True)
    assert f"The run {running.name} is canceled." in text(answer)


def test_lists_show_runs_and_decisions(admin, running):
    Decision.objects.create(is_start=True, reasons=["2 are new"], facts={}, run=running)
    page = text(admin.get(url("changelist")))
    assert running.name in page and "42 %" in page
    page = text(admin.get(url("changelist", model="decision")))
    assert "2 are new" in page and "begun" in page


# --- the schedule ---------------------------------------------------------------------------------
def test_the_schedule_can_be_changed(admin):
    every = IntervalSchedule.objects.create(every=1, period="hours")
    task = PeriodicTask.objects.create(
        name="consider-redistillation", task="distillation.consider", interval=every
    )
    page = reverse("admin:django_celery_beat_periodictask_change", args=[task.pk])
    assert "distillation.consider" in text(admin.get(page))
    other = IntervalSchedule.objects.create(every=5, period="minutes")
    given = {"name": task.name, "task": task.task, "interval": other.pk, "enabled": "on",
             "args": "[]", "kwargs": "{}", "headers": "{}", "start_time_0": "", "start_time_1": ""}  # fmt: skip
    answer = admin.post(page, given)
    assert answer.status_code == 302, text(answer)[-2000:]
    task.refresh_from_db()
    assert task.interval == other
    for model in ("periodictask", "intervalschedule", "crontabschedule"):
        assert admin.get(reverse(f"admin:django_celery_beat_{model}_changelist")).status_code == 200
