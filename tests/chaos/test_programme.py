"""Plans, checkpoints, devices and reports of the programme. Its rounds are for `make chaos`."""

import json
import os
import subprocess
import sys
import time
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path

import pytest

from tests.chaos import __main__ as programme
from tests.chaos import checker, clock, device, disk, report
from tests.chaos.faults import catalogue as faults
from tests.chaos.rounds import Result
from tests.web import eventually


def planned(*arguments: str) -> list[str]:
    return list(programme.plan(programme._options(list(arguments)), faults.everything()))


def test_a_whole_run_has_every_fault_and_the_same_pairs_for_a_seed():
    names = planned("--seed", "3")
    singles = [fault.name for fault in faults.everything() if fault.is_usable()]
    assert names[: len(singles)] == singles
    assert len(names) == len(singles) + programme.PAIRS
    assert names == planned("--seed", "3") != planned("--seed", "4")


def test_pairs_are_of_different_groups():
    known = {fault.name: fault for fault in faults.everything()}
    for first, second in faults.pairs(list(known.values()), 50, seed=1):
        assert first.group != second.group and "none" not in (first.group, second.group)


def test_a_quick_run_has_a_fault_of_most_groups():
    groups = {fault.name: fault.group for fault in faults.everything()}
    left_out = {"light", "webhooks", "encode", "people", "flood", "clock"}
    assert {groups[name] for name in faults.QUICK} == set(groups.values()) - left_out


def test_an_unknown_fault_is_refused(capsys):
    with pytest.raises(SystemExit):
        programme.main(["--faults", "Redis on fire"])
    assert "unknown faults: Redis on fire. --list names all." in capsys.readouterr().err


def test_finished_rounds_are_read_and_a_truncated_line_is_skipped(tmp_path: Path):
    checkpoint = tmp_path / "rounds.jsonl"
    whole = json.dumps(asdict(Result("web killed", jobs=3)))
    checkpoint.write_text(f"{whole}\n{whole[:20]}")
    assert programme.read(checkpoint) == {"web killed": Result("web killed", jobs=3)}


@pytest.mark.parametrize(("jobs", "rate"), [(1300, 2.0), (1300, 50.0), (130, 2.0)])
def test_the_timing_gives_the_requested_jobs_at_no_more_than_the_measured_rate(jobs, rate):
    options = programme._options(["--jobs", str(jobs)])
    timing = programme.timing_of(options, rate, number=10)
    seconds = timing.before + timing.during + timing.after
    assert seconds * timing.rate * programme.JOBS_PER_SCENARIO * 10 == pytest.approx(jobs)
    assert timing.rate <= rate and timing.after >= programme.WHOLE.after


def test_the_settings_install_the_app_that_breaks_devices():
    from django.apps import AppConfig

    from tests.chaos import settings

    assert isinstance(AppConfig.create(settings.INSTALLED_APPS[-1]), device.Device)


@pytest.mark.skipif(clock.COMPILER is None, reason="there is no C compiler")
@pytest.mark.parametrize(("process", "hours"), [("light", 2), ("beat", -2), ("generation-1", 0)])
def test_a_process_has_the_clock_of_its_host(tmp_path: Path, process: str, hours: int):
    environment = clock.prepare(tmp_path)
    clock.shift(tmp_path, "light", timedelta(hours=2))
    clock.shift(tmp_path, "beat", timedelta(hours=-2))
    script = "import datetime, time; print(time.time(), datetime.datetime.now().timestamp(), time.monotonic())"
    began = time.time(), time.time(), time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**environment, "SUPERVISOR_PROCESS_NAME": process},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    seen = [float(word) for word in done.stdout.split()]
    passed = [after - before for before, after in zip(began, seen, strict=True)]
    assert passed == pytest.approx([3600 * hours, 3600 * hours, 0], abs=600)


@pytest.mark.skipif(not disk.may_mount(), reason="only root may mount a small disk")
def test_a_full_disk_has_space_again_at_its_end(tmp_path: Path):
    with disk.SmallDisk(tmp_path / "disk", megabytes=10) as small:
        file = small.folder / "file"
        for path in (small.folder / "kept", file):
            path.write_bytes(bytes(2 << 20))
        with small.full():
            with pytest.raises(OSError, match="No space left"):
                (small.folder / "another").write_bytes(bytes(2 << 20))
            file.unlink()
            eventually(lambda: os.statvfs(small.folder).f_bfree == 0)
        file.write_bytes(bytes(2 << 20))
    assert not list((tmp_path / "disk").iterdir())


@pytest.mark.parametrize(("mode", "message"), [("raise-once", "once"), ("raise", "CUDA error")])
def test_a_broken_device_raises(tmp_path: Path, mode: str, message: str):
    file = tmp_path / "generation-1"
    file.write_text(mode)
    with pytest.raises(RuntimeError, match=message):
        device.apply_mode(file)
    assert file.exists() == (mode == "raise")
    assert device.effect_file(file).exists()


def test_a_device_hangs_until_its_file_is_removed(tmp_path: Path):
    file = tmp_path / "generation-1"
    device.apply_mode(file)
    file.write_text("hang")
    pauses: list[float] = []

    def pause(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 3:
            file.unlink()

    device.apply_mode(file, pause)
    assert len(pauses) == 3


def test_a_report_counts_and_names_the_violations(tmp_path: Path):
    broken = {"invariant": "accepted jobs end", "subject": "a", "detail": "queued"}
    other = {"invariant": "one beat", "subject": "b", "detail": "sends again"}
    results = [
        Result("none", jobs=10, recovered=0.1, began=3, ended=9, seconds=15, successes=[1.0, 9.1]),
        Result(
            "web killed", jobs=9, lost=1, violations=[broken, other], began=3, ended=9, seconds=15
        ),
    ]

    assert "| web killed | 9 | 1 | 0 | 0 | 1 | none | 0.0 s |" in report.table(results)
    assert report.totals(results) == "2 rounds, 19 jobs: 1 lost, 0 doubled, 0 failed."
    assert "web killed: accepted jobs end: 1\n    a: queued" in report.violations(results)
    results.append(programme.broken("two beats", ValueError("no beat")))
    assert not results[-1].is_good and "no beat" in report.violations(results)
    report.plot(results, tmp_path / "chaos.png")
    assert (tmp_path / "chaos.png").stat().st_size > 1000


def test_the_document_explains_every_invariant_and_the_makefile_runs_the_programme():
    text = (programme.ROOT / "docs" / "reliability.md").read_text()
    names = [invariant.__name__.replace("_", " ") for invariant in checker.AT_THE_END]
    assert [name for name in names if f"| {name} |" not in text] == []
    assert "-m tests.chaos" in (programme.ROOT / "Makefile").read_text()
