"""`manage.py doctor` finds faults and gives advice."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from django.core.management import call_command
from django_celery_beat.models import IntervalSchedule, PeriodicTask

from generation.infra import beat_lock, queues, redis_client
from generation.jobs import pausing
from generation.models import Release, Worker
from generation.releases import lifecycle
from project.maintenance import diagnosis
from project.maintenance.diagnosis import Finding, State
from tests.factories import make_image, make_worker
from tests.tiny import make_tiny_release
from tests.web import ROOT, free_port


@pytest.fixture
def installation(settings, tmp_path: Path, redis_server, monkeypatch):
    """An installation that passes every check."""
    monkeypatch.setattr(redis_client, "_resume_at", 0.0)
    Path(settings.DATA_DIR).mkdir()
    source = tmp_path / "tiny"
    make_tiny_release(source, name="sound", kind="student")
    release = lifecycle.register(source)
    Release.objects.filter(pk=release.pk).update(status=Release.Status.ACTIVE)
    for queue in queues.REQUIRED:
        make_worker(name=f"worker-{queue}", queue=queue)
    redis_server.set(beat_lock.NAME, "a beat")
    make_image()
    Release.objects.exclude(name="sound").update(status=Release.Status.REJECTED)
    return redis_server


def wrong(**options: bool) -> dict[str, list[Finding]]:
    """Return the findings that are not OK, by part."""
    found: dict[str, list[Finding]] = {}
    for finding in diagnosis.examine(**options):
        if finding.state is not State.OK and finding.part != "data":  # the disk of the tests
            found.setdefault(finding.part, []).append(finding)
    return found


@pytest.mark.django_db
def test_a_sound_installation_has_no_finding(installation):
    assert wrong() == {}
    assert {finding.part for finding in diagnosis.examine()} >= {
        "versions", "settings", "data", "redis", "postgresql", "migrations", "workers", "beat", "images"
    }  # fmt: skip


@pytest.mark.django_db
def test_every_fault_is_found_with_advice(installation, settings):
    installation.delete(beat_lock.NAME)
    Worker.objects.filter(queue="light").delete()
    Worker.objects.filter(queue="generation").update(fault="storage_failed")
    pausing.pause("generation", by="ann", reason="repair")
    every = IntervalSchedule.objects.create(every=5, period="seconds")
    PeriodicTask.objects.create(name="sweep", task="x", interval=every, enabled=False)
    (Path(settings.RELEASES_ROOT) / "sound" / "release.json").unlink()
    found = wrong()
    assert {"beat", "workers", "queues", "releases", "schedule"} <= set(found)
    assert any("storage_failed" in finding.detail for finding in found["workers"])
    assert any("no light worker" in finding.detail for finding in found["workers"])
    assert all(finding.advice for findings in found.values() for finding in findings)


@pytest.mark.django_db
def test_a_changed_file_of_a_release_is_found_by_its_hash(installation, settings):
    (weights,) = (Path(settings.RELEASES_ROOT) / "sound" / "unet").glob("*.safetensors")
    content = bytearray(weights.read_bytes())
    content[-1] ^= 0xFF
    weights.write_bytes(content)

    def faults(found: dict[str, list[Finding]]) -> list[str]:
        return [f.detail for f in found.get("releases", []) if "sound" in f.detail]

    assert faults(wrong()) == [] and len(faults(wrong(hashes=True))) == 1


@pytest.mark.django_db
def test_the_doctor_prints_json(installation, capsys):
    with pytest.raises(SystemExit) as ended:
        installation.delete(beat_lock.NAME)
        call_command("doctor", "--json")
    answer = json.loads(capsys.readouterr().out)
    assert ended.value.code == 1 and answer["ok"] is False
    assert {"part": "beat", "state": "fault"}.items() <= next(
        f for f in answer["findings"] if f["part"] == "beat"
    ).items()


def test_without_servers_the_doctor_reports_it():
    away = {
        "DATABASE_URL": f"postgres://nobody@127.0.0.1:{free_port()}/retort",
        "REDIS_URL": f"redis://127.0.0.1:{free_port()}/0",
    }
    done = subprocess.run(
        [sys.executable, "manage.py", "doctor"],
        cwd=ROOT, env={**os.environ, **away}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 1 and done.stderr == ""
    assert "FAULT postgresql" in done.stdout and "FAULT redis" in done.stdout
    assert "check DATABASE_URL" in done.stdout
