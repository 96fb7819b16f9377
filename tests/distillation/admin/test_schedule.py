"""Admin of periodic tasks: permissions and log entries."""

import json
import re

import celery
import pytest
from django.contrib import admin
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import Permission
from django.test import Client
from django.urls import reverse
from django_celery_beat.models import CrontabSchedule, IntervalSchedule, PeriodicTask

from generation import tasks as generation_tasks
from generation.models import AuditEntry
from tests.factories import make_user, make_variant

pytestmark = pytest.mark.django_db

LIST = "admin:django_celery_beat_periodictask_changelist"
CATALOGUE = "/admin/generation/promptvariant/"
ACTIONS = ["enable_tasks", "disable_tasks", "run_tasks", "toggle_tasks", "delete_selected"]


def staff(*permissions: str) -> Client:
    user = make_user(username="editor", is_staff=True)
    user.user_permissions.set(Permission.objects.filter(codename__in=permissions))
    client = Client()
    client.force_login(user)
    return client


@pytest.fixture
def tasks() -> list[PeriodicTask]:
    every = IntervalSchedule.objects.create(every=1, period="hours")
    names = ("sweep", "consider")
    return [
        PeriodicTask.objects.create(
            name=name, task="generation.sweep", interval=every, enabled=name == "sweep"
        )
        for name in names
    ]


def choose(client: Client, name: str, tasks: list[PeriodicTask]):
    chosen = {"action": name, "_selected_action": [task.pk for task in tasks]}
    return client.post(reverse(LIST), chosen, follow=True)


def states() -> list[bool]:
    return list(PeriodicTask.objects.order_by("pk").values_list("enabled", flat=True))


@pytest.mark.parametrize("name", ACTIONS)
def test_the_view_permission_alone_allows_neither_changing_nor_running_tasks(
    tasks, light_queue, name
):
    editor = staff("view_periodictask")
    assert name not in editor.get(reverse(LIST)).content.decode()
    choose(editor, name, tasks)
    assert states() == [True, False] and light_queue() == []


def test_changes_of_the_schedule_are_logged(tasks, light_queue):
    editor = staff("view_periodictask", "change_periodictask")
    choose(editor, "disable_tasks", tasks)
    assert states() == [False, False]
    choose(editor, "enable_tasks", tasks[1:])
    assert states() == [False, True]
    choose(editor, "run_tasks", tasks[:1])
    assert light_queue() == ["generation.sweep"]
    entries = LogEntry.objects.order_by("pk").values_list(
        "user__username", "object_repr", "change_message"
    )
    logged = [(who, what.split(":")[0], message) for who, what, message in entries]
    audited = AuditEntry.objects.filter(action="periodic_task_changed", actor="editor")
    assert audited.count() == len(logged)
    assert sorted(logged) == [
        ("editor", "consider", "Disabled in the admin."),
        ("editor", "consider", "Enabled in the admin."),
        ("editor", "sweep", "Disabled in the admin."),
        ("editor", "sweep", "Run in the admin."),
    ]


def audited() -> list[tuple[str, str]]:
    """Return the task and the text of each entry, and delete the entries."""
    rows = AuditEntry.objects.filter(action="periodic_task_changed").order_by("pk")
    found = [(row.subject, row.detail["what"]) for row in rows]
    rows.delete()
    return found


def test_changes_and_deletions_of_tasks_and_of_their_schedules_are_in_the_audit_log(tasks):
    def url(model: str, page: str, *args: object) -> str:
        return reverse(f"admin:django_celery_beat_{model}_{page}", args=args)

    client, hourly = superuser(), tasks[0].interval
    other = PeriodicTask.objects.create(name="other", task="generation.sweep", interval=hourly)
    change = url("intervalschedule", "change", hourly.pk)
    for every in ("3", "3"):  # the second changes nothing
        assert client.post(change, {"every": every, "period": "hours"}).status_code == 302
    changed = "Schedule changed in the admin: every 3 hours."
    assert audited() == [("sweep", changed), ("consider", changed), ("other", changed)]
    client.post(url("periodictask", "delete", other.pk), {"post": "yes"})
    assert audited() == [("other", "Deleted in the admin.")]
    chosen = {"action": "delete_selected", "_selected_action": [tasks[1].pk], "post": "yes"}
    client.post(url("periodictask", "changelist"), chosen)
    assert audited() == [("consider", "Deleted in the admin.")]
    client.post(url("intervalschedule", "delete", hourly.pk), {"post": "yes"})
    assert audited() == [("sweep", "Deleted in the admin.")]
    assert not PeriodicTask.objects.filter(interval=hourly).exists()


def test_the_list_shows_what_each_task_does_and_when_it_runs_next(tasks):
    nightly = CrontabSchedule.objects.create(hour="2", minute="30")
    PeriodicTask.objects.create(
        name="clean", task="generation.clean", crontab=nightly, enabled=True
    )
    page = staff("view_periodictask").get(reverse(LIST)).content.decode()
    assert "every hour" in page
    assert re.search(r"\d{4}-\d\d-\d\d 02:30 UTC", page)
    assert str(generation_tasks.sweep.__doc__).partition("\n")[0] in page
    assert len(re.findall(r"field-next_run[^>]*>\s*<time class", page)) == 2  # one is disabled


CRONTAB = {
    "minute": "0",
    "hour": "2",
    "day_of_week": "*",
    "timezone": "UTC",
    "periodictask_set-TOTAL_FORMS": "0",
    "periodictask_set-INITIAL_FORMS": "0",
}


def impossible() -> list[IntervalSchedule | CrontabSchedule]:
    """Return schedules without a next date, as a database of an earlier revision may have them."""
    return [
        IntervalSchedule.objects.create(every=10**9, period="days"),
        IntervalSchedule.objects.create(every=3_000_000, period="days"),
        CrontabSchedule.objects.create(day_of_month="31", month_of_year="2"),
    ]


def test_pages_show_a_task_without_a_next_date_and_open_it_for_repair():
    admin = superuser()
    make_variant()
    for number, schedule in enumerate(impossible()):
        field = "crontab" if isinstance(schedule, CrontabSchedule) else "interval"
        task = PeriodicTask.objects.create(
            name=f"odd-{number}", task="distillation.consider", **{field: schedule}
        )
        page = admin.get(reverse(LIST)).content.decode()
        assert page.count("never") >= 1 and "The schedule has no next date" in page
        assert "No run is scheduled" in admin.get(CATALOGUE).content.decode()
        change = reverse("admin:django_celery_beat_periodictask_change", args=[task.pk])
        assert admin.get(change).status_code == 200
        task.delete()


@pytest.mark.parametrize(
    ("every", "period", "is_accepted"),
    [
        (3653, "days", True),
        (3654, "days", False),
        (2**31 - 1, "days", False),
        (2**31 - 1, "seconds", False),
        (2**31 - 1, "microseconds", True),
    ],
)
def test_an_interval_has_at_most_ten_years(every, period, is_accepted):
    add = reverse("admin:django_celery_beat_intervalschedule_add")
    answer = superuser().post(add, {"every": every, "period": period})
    assert IntervalSchedule.objects.exists() == is_accepted
    assert is_accepted or "at most ten years" in answer.content.decode()


@pytest.mark.parametrize(
    ("day", "month", "error"),
    [
        ("29", "2", ""),
        ("31", "2", "No date in the future"),
        ("x", "2", "No enumeration for Day of Month"),
    ],
)
def test_a_crontab_has_a_next_date(day, month, error):
    add = reverse("admin:django_celery_beat_crontabschedule_add")
    answer = superuser().post(add, CRONTAB | {"day_of_month": day, "month_of_year": month})
    assert CrontabSchedule.objects.exists() == (not error)
    if error:
        (said,) = [text for some in answer.context["errors"] for text in some]
        assert error in said


def test_arguments_and_headers_have_the_type_that_beat_needs(tasks):
    client = superuser()
    assert "Give JSON" in save(client, tasks[0], headers="[]").content.decode()
    assert save(client, tasks[0], headers='{"a": 1}').status_code == 302
    form, sent = opened(client, tasks[0])
    for field, text, is_accepted in (
        ("headers", "null", False),
        ("headers", "5", False),
        ("headers", "{", False),
        ("headers", '{"__type__": [], "__value__": 1}', False),
        ("headers", "", True),
        ("kwargs", "[]", False),
        ("kwargs", "{}", True),
        ("args", "{}", False),
        ("args", "[" * 5000, False),
        ("args", "[1]", True),
    ):
        changed = type(form)(sent | {field: text}, instance=tasks[0])
        assert changed.is_valid() == is_accepted, (field, text)
        assert is_accepted or "Give JSON" in str(changed.errors[field])


def test_a_task_cannot_be_run_while_redis_is_down_and_the_page_says_so(tasks, monkeypatch):
    with celery.Celery(broker="redis://127.0.0.1:1/0", set_as_current=False) as stranded:
        monkeypatch.setattr(celery.current_app.amqp, "_producer_pool", stranded.amqp.producer_pool)
        answer = choose(staff("view_periodictask", "change_periodictask"), "run_tasks", tasks)
    assert answer.status_code == 200 and "Redis does not answer" in notices(answer)
    assert not LogEntry.objects.exists()


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"queue": "nowhere"}, "no queue has the name nowhere"),
        ({"task": "generation.nothing"}, "no task has the name generation.nothing"),
        ({"args": "[1]"}, "its arguments do not fit"),
        ({"args": "["}, "its arguments do not fit"),
        ({"kwargs": "[1]"}, "its arguments do not fit"),
    ],
)
def test_a_task_that_cannot_be_run_is_named_and_the_others_run(tasks, light_queue, fields, reason):
    PeriodicTask.objects.filter(name="consider").update(**fields)
    answer = choose(staff("view_periodictask", "change_periodictask"), "run_tasks", tasks)
    assert f"consider was not sent: {reason}" in notices(answer)
    assert "1 task sent to workers" in notices(answer)
    assert light_queue() == ["generation.sweep"]
    assert LogEntry.objects.get().object_repr.startswith("sweep")


@pytest.mark.parametrize(("queue", "is_accepted"), [("light", True), ("", True), ("ligth", False)])
def test_a_queue_that_overrides_exists(tasks, queue, is_accepted):
    answer = save(superuser(), tasks[0], queue=queue)
    assert (answer.status_code == 302) == is_accepted
    assert is_accepted or "Give one of" in answer.content.decode()


def notices(answer) -> str:
    return " ".join(str(message) for message in answer.context["messages"])


def save(client: Client, task: PeriodicTask, **fields: str):
    """Send the form of a task with these fields changed."""
    return client.post(page_of(task), opened(client, task)[1] | fields)


def opened(client: Client, task: PeriodicTask):
    """Return the form of a task, and what it sends if nothing is changed."""
    form = client.get(page_of(task)).context["adminform"].form
    values = {name: form.initial.get(name) for name in form.fields}
    return form, {name: value for name, value in values.items() if value not in (None, False)}


def page_of(task: PeriodicTask) -> str:
    return reverse("admin:django_celery_beat_periodictask_change", args=[task.pk])


def superuser() -> Client:
    client = Client()
    client.force_login(make_user(username="admin", is_superuser=True))
    return client


def test_every_action_of_every_list_needs_a_permission():
    for model, model_admin in admin.site._registry.items():
        for action in model_admin.actions:
            found = getattr(model_admin, action) if isinstance(action, str) else action
            assert getattr(found, "allowed_permissions", ()), (model.__name__, action)


@pytest.fixture
def light_queue(redis_server, settings):
    """Return a function that names the tasks in the light worker's queue."""
    from generation.infra.redis_client import client

    def names() -> list[str]:
        return [
            json.loads(message)["headers"]["task"] for message in client().lrange("light", 0, -1)
        ]

    return names
