"""The first page of the admin: what needs attention today, and the figures of the week."""

import re
from datetime import timedelta

import pytest
from django.contrib.auth.models import Permission
from django.core.cache import cache
from django.db import connection
from django.test import Client
from django.urls import reverse
from django.utils import timezone
from django_celery_beat.models import IntervalSchedule, PeriodicTask

from distillation.models import Run
from generation.access import audit
from generation.admin import trends
from generation.infra import beat_lock, queues, redis_client
from generation.models import AuditEntry, Image, Job, PromptVariant, Release, Worker
from tests.distillation.example_factories import make_example
from tests.distillation.factories import make_run
from tests.factories import (
    cover,
    make_delivery,
    make_embedding,
    make_image,
    make_job,
    make_release,
    make_user,
    make_variant,
    make_worker,
)

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def empty_cache_of_trends() -> None:
    cache.delete_many([trends.KEY, trends.KEY_OF_HOUR])


@pytest.fixture
def healthy(redis_server, monkeypatch, settings):
    """An installation where everything runs and every prompt is covered and encoded."""
    settings.WORKER_STALE_SECONDS = 600  # no worker of this fixture repeats its heartbeat
    monkeypatch.setattr(redis_client, "_resume_at", 0.0)
    redis_server.set(beat_lock.NAME, "a beat")
    backed_up(days_ago=1)
    for queue in queues.REQUIRED:
        make_worker(name=queue, queue=queue)
    embedding = make_embedding(variant=make_variant(text="a red vase"))
    release = make_release(covered_variants=["a-red-vase"])
    cover(release, {"a-red-vase": ""})
    make_job(embedding=embedding, release=release, status=Job.Status.SUCCEEDED)
    return redis_server


def backed_up(*, days_ago: int) -> None:
    backup_time = timezone.now() - timedelta(days=days_ago)
    audit.record(audit.BACKUP_WRITTEN, "retort.tar", made_at=backup_time.isoformat())


def person(*permissions: str, **fields: bool) -> Client:
    user = make_user(username="editor", is_staff=True, **fields)
    user.user_permissions.set(Permission.objects.filter(codename__in=permissions))
    client = Client()
    client.force_login(user)
    return client


def attention(client: Client) -> list[str]:
    return [item.text for item in client.get(reverse("admin:index")).context["attention"]]


def test_a_healthy_installation_has_nothing_that_needs_attention(healthy):
    client = person(is_superuser=True)
    assert attention(client) == []
    assert "None. Everything runs" in client.get(reverse("admin:index")).content.decode()


def test_an_uncovered_prompt_is_listed_with_the_way_to_start_a_run(healthy):
    def advice(client: Client) -> str:
        items = client.get(reverse("admin:index")).context["attention"]
        (found,) = (item.advice for item in items if "not covered by the student" in item.text)
        return found

    make_release(name="starter-teacher", kind="teacher")
    make_embedding(variant=make_variant(text="a blue vase"))
    student = Release.objects.get(kind="student")
    student.manifest["parent"] = "starter-teacher"
    student.save()
    every = IntervalSchedule.objects.create(every=1, period="days")
    PeriodicTask.objects.create(name="consider", task="distillation.consider", interval=every)
    editor = person("view_promptvariant", "add_run")
    found = advice(editor)
    assert f'href="{reverse("admin:distillation_run_add")}"' in found and "Distil now" in found
    assert re.search(r"\(\d+ minutes on two cores .*\), or wait for the decision of \d{4}-", found)
    assert advice(person("view_promptvariant")) == "Start a run, or wait for the schedule."
    run = make_run(percent=12.0)
    editor = person("view_promptvariant", "add_run")
    assert reverse("admin:distillation_run_change", args=[run.pk]) in advice(editor)


def test_failures_are_listed_before_decisions(healthy):
    done = Job.objects.get()
    make_job(
        embedding=done.embedding,
        release=done.release,
        status=Job.Status.FAILED,
        error_code="out_of_memory",
    )
    make_delivery(status="dead")  # of a job whose prompt the student does not cover
    healthy.delete(beat_lock.NAME)
    Worker.objects.filter(queue="light").delete()
    Worker.objects.filter(queue="encode").update(fault="storage_failed")
    release = make_release(name="new", kind="student", status=Release.Status.CANDIDATE)
    make_run(
        name="new-run",
        status=Run.Status.SUCCEEDED,
        outcome="candidate",
        release=release,
        finished_at=timezone.now(),
    )
    make_example()
    found = attention(person(is_superuser=True))
    assert found == [
        "No light worker runs: no job is rescued, and nothing is distilled by schedule",
        "Beat does not run: jobs are rescued later, and nothing is distilled by schedule",
        "encode accepts no jobs: storage_failed",
        "1 job failed in 24 hours: out_of_memory",
        "1 webhook delivery given up",
        "1 prompt not covered by the student",
        "The release of new-run waits for you",
        "1 example not judged",
    ]


def test_a_run_that_stopped_is_named(healthy):
    make_run(
        name="full", status=Run.Status.PAUSED, error_code="no_space", error_detail="Disk full."
    )
    assert "The run full is paused" in attention(person(is_superuser=True))
    Run.objects.update(status=Run.Status.FAILED, finished_at=timezone.now())
    assert "The latest run full failed" in attention(person(is_superuser=True))


def test_a_person_sees_only_what_is_permitted(healthy):
    PromptVariant.objects.update(status="archived")
    make_variant(text="a blue bowl")
    healthy.delete(beat_lock.NAME)
    found = attention(person("view_promptvariant"))
    assert found == ["1 prompt not encoded, or served by no release"]
    visitor = person()
    assert attention(visitor) == []
    assert "Open issues" not in visitor.get(reverse("admin:index")).content.decode()


def test_the_chart_shows_each_day_of_the_week(healthy):
    now = timezone.now()
    job = make_job(status=Job.Status.FAILED)
    Job.objects.filter(pk=job.pk).update(created_at=now - timedelta(days=2))
    image = make_image(job=Job.objects.get(status=Job.Status.SUCCEEDED))
    Image.objects.filter(pk=image.pk).update(is_accepted=False)
    jobs, _, pictures = person("view_job").get(reverse("admin:index")).context["trends"]
    assert [bar.text for bar in jobs.bars][-3:] == ["0, 1 failed", "none", "1, 0 failed"]
    assert len(jobs.bars) == 7 and jobs.bars[-3].bad_height == jobs.bars[-3].height == trends.HEIGHT
    assert pictures.latest == "0% of 1"


def test_the_figures_of_the_last_hour_are_a_table():
    def shown() -> list[str]:
        cache.delete(trends.KEY_OF_HOUR)
        return [value for _, value in client.get(reverse("admin:index")).context["hour"]]

    client = person("view_job")
    assert shown() == ["0.0 a minute (0, 0 failed)", "–", "–"]
    now = timezone.now()
    for seconds in range(1, 102):
        ended = now - timedelta(minutes=seconds / 4)
        job = make_job(status=Job.Status.SUCCEEDED, seed=seconds)
        Job.objects.filter(pk=job.pk).update(
            created_at=ended - timedelta(seconds=seconds), finished_at=ended
        )
    make_job(status=Job.Status.FAILED)
    make_job(status=Job.Status.CANCELED)
    make_job()
    old = make_job(status=Job.Status.SUCCEEDED)
    Job.objects.filter(pk=old.pk).update(
        created_at=now - timedelta(hours=9), finished_at=now - timedelta(minutes=61)
    )
    assert shown() == ["1.7 a minute (102, 1 failed)", "51.00 s", "100.00 s"]
    assert "hour" not in person("view_release").get(reverse("admin:index")).context


def test_the_figures_of_the_last_hour_read_an_index_and_not_the_table():
    job = make_job(status=Job.Status.SUCCEEDED)
    copied = [field.column for field in Job._meta.fields if field.name not in ("id", "finished_at")]
    columns = ", ".join(f'"{column}"' for column in copied)
    with connection.cursor() as cursor:
        cursor.execute(
            f"INSERT INTO generation_job (id, finished_at, {columns})"
            f" SELECT gen_random_uuid(), now() - minute * interval '1 minute', {columns}"
            " FROM generation_job, generate_series(1, 5000) AS minute WHERE id = %s",
            [job.pk],
        )
        cursor.execute("ANALYZE generation_job")
    plan = trends.ended_in_last_hour().explain()
    assert "job_kept" in plan and "Seq Scan" not in plan, plan


def test_the_menu_has_no_link_to_forbidden_pages():
    html = person("view_job").get(reverse("admin:index")).content.decode()
    assert reverse("admin:generation_job_changelist") in html
    assert reverse("admin:generation_apikey_changelist") not in html


def test_a_missing_or_an_old_backup_is_a_warning(healthy, settings):
    def card() -> dict:
        cards = client.get(reverse("admin:index")).context["cards"]
        return next(card for card in cards if card["title"] == "Last backup")

    client = person(is_superuser=True)
    assert (card()["value"], card()["is_bad"]) == ("1\xa0day ago", False)
    AuditEntry.objects.all().delete()
    assert attention(client) == ["No backup is known: lost data could not be recovered"]
    backed_up(days_ago=8)
    (message,) = attention(client)
    assert message.startswith("The last backup is of ") and card()["is_bad"]
    settings.BACKUP_MAX_AGE_DAYS = 9
    assert attention(client) == [] and not card()["is_bad"]
    AuditEntry.objects.all().delete()
    settings.BACKUP_MAX_AGE_DAYS = 0
    assert attention(client) == [] and not card()["is_bad"]
