"""Metrics: summed over processes in Redis, completed by PostgreSQL at the scrape, harmless when Redis is down."""

import re
import socket
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path

import pytest
from django.db import DatabaseError
from django.test import Client
from django.utils import timezone
from prometheus_client.parser import text_string_to_metric_families

from generation.infra import beat_lock, gauges, metrics, redis_client
from generation.models import PromptVariant, Release
from tests.distillation.factories import make_run
from tests.factories import (
    cover,
    make_embedding,
    make_job,
    make_release,
    make_user,
    make_variant,
    make_worker,
)

ROOT = Path(__file__).resolve().parents[3]


TOKEN = "of-the-monitoring"


@pytest.fixture(autouse=True)
def token(settings) -> None:
    settings.METRICS_TOKEN = TOKEN


@pytest.fixture
def redis(redis_server, monkeypatch):
    monkeypatch.setattr(redis_client, "_resume_at", 0.0)
    return redis_server


def scraped() -> dict[tuple, float]:
    """Return every value of /metrics by name and labels."""
    answer = Client().get("/metrics", headers={"Authorization": f"Bearer {TOKEN}"})
    assert answer.status_code == 200
    assert answer["Content-Type"].startswith("text/plain; version=0.0.4")
    return {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(answer.content.decode())
        for sample in family.samples
    }


@pytest.mark.django_db
def test_counters_add_up_by_label(redis):
    metrics.increment("retort_jobs_total", outcome="succeeded")
    metrics.increment("retort_jobs_total", outcome="succeeded")
    metrics.increment("retort_jobs_total", outcome="failed")
    metrics.increment("retort_device_seconds_total", 1.25)
    metrics.increment("retort_device_seconds_total", 0.25)

    values = scraped()

    assert values["retort_jobs_total", ("outcome", "succeeded")] == 2
    assert values["retort_jobs_total", ("outcome", "failed")] == 1
    assert values["retort_device_seconds_total",] == 1.5


@pytest.mark.django_db
def test_buffered_values_are_counted_with_the_next_flush(redis, monkeypatch):
    monkeypatch.setattr(metrics, "_is_kept_back", False)
    metrics.start_buffering()
    metrics.increment("retort_jobs_total", outcome="succeeded")
    metrics.increment("retort_jobs_total", outcome="succeeded")
    assert not redis.exists(metrics.HASH)

    metrics.flush()
    metrics.flush()

    assert scraped()["retort_jobs_total", ("outcome", "succeeded")] == 2


@pytest.mark.django_db
def test_histograms_are_cumulative_with_sum_and_count(redis):
    for seconds in (0.005, 0.02, 0.02, 4, 1000):
        metrics.observe("retort_job_seconds", seconds)

    values = scraped()

    bucket = {
        le: values["retort_job_seconds_bucket", ("le", le)]
        for le in ("0.005", "0.01", "0.025", "5.0", "300.0", "+Inf")
    }
    assert list(bucket.values()) == [1, 1, 3, 4, 4, 5]
    assert values["retort_job_seconds_count",] == 5
    assert values["retort_job_seconds_sum",] == pytest.approx(1004.045)


@pytest.mark.django_db
def test_other_processes_add_to_the_same_values(redis, settings):
    metrics.increment("retort_images_total", 2)
    code = (
        "import django; django.setup(); from generation.infra import metrics;"
        "metrics.increment('retort_images_total', 3)"
    )

    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, env=environment(settings))

    assert scraped()["retort_images_total",] == 5


def environment(settings) -> dict[str, str]:
    import os

    return {
        **os.environ,
        "REDIS_URL": settings.REDIS_URL,
        "DJANGO_SETTINGS_MODULE": "project.settings",
    }


@pytest.mark.django_db
def test_gauges_have_the_values_of_the_rows(redis, settings):
    release = make_release()
    make_job(created_at=timezone.now() - timedelta(seconds=90))
    make_job(seed=2)
    make_job(status="running", seed=3)
    make_job(status="succeeded", seed=4)
    make_worker(name="fresh")
    make_worker(name="gone", silent_seconds=settings.WORKER_STALE_SECONDS + 1)
    make_variant(slug="not-encoded")
    make_embedding(variant=make_variant(slug="failed"), error="It broke.")
    make_variant(slug="draft", status="draft")

    values = scraped()

    named = ("release", release.name)
    assert values["retort_queue_jobs", named] == 2
    assert values["retort_running_jobs", named] == 1
    assert 89 < values["retort_queue_oldest_seconds", named] < 120
    assert values["retort_workers", ("queue", "generation")] == 1
    assert values["retort_workers", ("queue", "encode")] == 0
    assert values["retort_variants", ("status", "draft")] == 1
    states = {
        s: values["retort_variant_embeddings", named, ("state", s)]
        for s in ("encoded", "failed", "missing")
    }
    assert states == {"encoded": 1, "failed": 1, "missing": 1}
    assert (values["retort_redis_up",], values["retort_database_up",]) == (1, 1)


@pytest.mark.django_db
def test_only_the_variants_that_a_student_covers_are_counted(redis):
    release = make_release()
    cover(release, {"vase": "", "mug": ""})
    make_embedding(variant=make_variant(slug="vase"))
    make_embedding(variant=make_variant(slug="other"), error="cannot be encoded")
    make_variant(slug="mug")

    values = scraped()

    states = {
        s: values["retort_variant_embeddings", ("release", release.name), ("state", s)]
        for s in ("encoded", "failed", "missing")
    }
    assert states == {"encoded": 1, "failed": 0, "missing": 1}


@pytest.mark.django_db
def test_an_empty_system_reports_zeros(redis):
    release = make_release()

    values = scraped()

    assert values["retort_images_total",] == 0
    assert values["retort_queue_jobs", ("release", release.name)] == 0
    assert values["retort_batch_size_count",] == 0


@pytest.mark.django_db
def test_the_scrape_does_not_slow_with_jobs_that_ended(redis, django_assert_max_num_queries):
    for seed in range(5):
        make_job(seed=seed, owner=make_user(username=f"user-{seed}"))

    with django_assert_max_num_queries(11):
        scraped()


@pytest.mark.django_db
def test_without_redis_gauges_of_rows_remain_and_recording_does_not_block(settings, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as silent:  # accepts connections and never answers
        settings.REDIS_URL = f"redis://127.0.0.1:{silent.getsockname()[1]}/0"
        monkeypatch.setattr(redis_client, "_client", None)
        monkeypatch.setattr(redis_client, "_resume_at", 0.0)
        make_job()
        started = time.monotonic()

        for _ in range(500):
            metrics.increment("retort_images_total")
            metrics.observe("retort_job_seconds", 0.1)
        recording = time.monotonic() - started
        values = scraped()

    assert recording < 2.5
    assert values["retort_redis_up",] == 0
    assert values["retort_queue_jobs", ("release", "student-1")] == 1
    assert not [name for name, *_ in values if name == "retort_images_total"]


@pytest.mark.django_db
def test_without_postgresql_metrics_from_redis_remain(redis, monkeypatch):
    def away():
        raise DatabaseError("gone")

    monkeypatch.setattr(gauges, "_workers", away)
    metrics.increment("retort_images_total")

    values = scraped()

    assert (values["retort_images_total",], values["retort_database_up",]) == (1, 0)


def test_every_metric_that_the_code_records_is_declared():
    used = set()
    for app in ("generation", "project"):
        for file in (ROOT / app).rglob("*.py"):
            if file.name not in ("metrics.py", "gauges.py"):
                used |= set(re.findall(r"""\(\s*["'](retort_[a-z_]+)["']""", file.read_text()))

    assert used
    assert used <= set(metrics.COUNTERS) | set(metrics.HISTOGRAMS)


@pytest.mark.parametrize("token", ["", TOKEN])
@pytest.mark.parametrize(
    "sent", [None, "", "Bearer ", "Bearer of-the-monitorinG", "Bearer é", TOKEN]
)
def test_the_metrics_are_refused_without_the_token(settings, token: str, sent: str | None):
    settings.METRICS_TOKEN = token
    answer = Client().get("/metrics", headers={} if sent is None else {"Authorization": sent})

    assert (answer.status_code, b"retort_" in answer.content) == (401, False)
    assert answer["WWW-Authenticate"].startswith("Bearer")


@pytest.mark.django_db
def test_an_unknown_field_is_skipped(redis_server):
    redis_server.hset(metrics.HASH, mapping={"garbage": "1", '["one"]': "1", '{"a": 1}': "1"})
    metrics.increment("retort_images_total")

    assert scraped()["retort_images_total",] == 1


@pytest.mark.django_db
def test_requests_are_counted_by_route_and_not_by_path(redis):
    client = Client()
    client.get("/v1/jobs/5f3c1c1e-0000-4000-8000-000000000001")
    client.get("/v1/jobs/5f3c1c1e-0000-4000-8000-000000000002")
    client.get("/nowhere")
    client.get("/admin/generation/job/")
    values = scraped()

    def count(route: str, status: str) -> float:
        labels = (("method", "GET"), ("route", route), ("status", status))
        return values[("retort_http_requests_total", *labels)]

    assert count("/v1/jobs/<uuid:job_id>", "401") == 2
    assert count("unknown", "404") == count("admin", "302") == 1
    assert values[("retort_http_seconds_count", ("route", "/v1/jobs/<uuid:job_id>"))] == 2


@pytest.mark.django_db
def test_a_metric_of_an_alarm_is_zero_before_its_first_event(redis):
    assert scraped()["retort_attempts_total", ("outcome", "lost")] == 0


@pytest.mark.django_db
def test_the_installation_the_disk_and_beat_are_gauges(redis, settings):
    assert not any(key[0].startswith("retort_disk") for key in scraped())  # no folder yet
    Path(settings.DATA_DIR).mkdir()
    values = scraped()
    assert values["retort_info", ("version", settings.VERSION)] == 1
    assert 0 < values["retort_disk_free_bytes",] <= values["retort_disk_size_bytes",]
    assert values["retort_beat_up",] == 0 and values["retort_database_bytes",] > 0
    redis.set(beat_lock.NAME, "a beat")
    assert scraped()["retort_beat_up",] == 1


@pytest.mark.django_db
def test_runs_and_waiting_candidates_are_gauges(redis):
    release = make_release(name="new", status=Release.Status.CANDIDATE)
    make_run(status="succeeded", outcome="candidate", release=release, finished_at=timezone.now())
    make_run(status="running", percent=40, lease_expires_at=timezone.now())
    values = scraped()
    assert values["retort_runs", ("status", "running")] == 1
    assert values["retort_run_percent",] == 40 and values["retort_waiting_candidates",] == 1


@pytest.mark.django_db
def test_coverage_of_the_active_releases_is_a_gauge(redis):
    make_variant(slug="one")
    make_variant(slug="two")
    release = make_release(covered_variants=["one"])
    cover(release, {"one": ""})
    covered = ("kind", "student"), ("release", release.name)
    assert scraped()["retort_covered_variants", *covered] == 1


@pytest.mark.django_db
def test_prompts_that_no_student_covers_are_a_gauge(redis):
    def uncovered() -> float:
        return scraped()["retort_uncovered_variants",]

    one, two = make_variant(slug="one", text="a mug"), make_variant(slug="two", text="a cup")
    assert uncovered() == 0  # no student serves
    cover(make_release(name="s", covered_variants=["one"]), {"one": one.normalized_text})
    assert uncovered() == 1
    beside = make_release(name="v", status="specialist", covered_variants=["two"])
    cover(beside, {"two": two.normalized_text})
    assert uncovered() == 0
    PromptVariant.objects.filter(slug="two").update(normalized_text="another text")
    assert uncovered() == 1
