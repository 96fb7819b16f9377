"""Choice of a runtime."""

import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from generation.engine import device as devices
from generation.engine import pipeline as pipelines
from generation.engine.device import Device
from generation.engine.errors import DeviceUnavailable
from generation.engine.runtimes import selection


def name(folder: Path, runtime: str, cache: Path | None = None) -> str:
    loaded = pipelines.load(
        folder, device="cpu", dtype="float32", threads=1, runtime=runtime, cache=cache
    )
    assert loaded.describe().endswith(f", {loaded.runtime.name}")
    return loaded.runtime.name


@pytest.mark.slow
def test_the_faster_runtime_is_measured_once_and_stored(student: Path, cache: Path) -> None:
    pytest.importorskip("openvino")
    file = cache / selection.MEASURED
    file.unlink(missing_ok=True)
    chosen = name(student, "auto", cache)
    ((key, found),) = json.loads(file.read_text()).items()
    assert found["runtime"] == chosen
    assert {runtime: set(times) for runtime, times in found["seconds"].items()} == {
        "torch": {"1", "8"},
        "openvino": {"1", "8"},
    }
    other = "torch" if chosen == "openvino" else "openvino"
    file.write_text(json.dumps({key: {"runtime": other}}))
    assert name(student, "auto", cache) == other
    file.write_text("{")
    name(student, "auto", cache)
    assert list(json.loads(file.read_text())) == [key]


def test_a_stored_measurement_decides(student: Path, cache: Path) -> None:
    device = devices.choose("cpu", "float32")
    key = selection._key(student, device, 1)
    for runtime in ("openvino", "torch"):
        selection._write(cache / selection.MEASURED, {key: {"runtime": runtime}})
        assert name(student, "auto", cache) == runtime


def test_workers_that_start_together_measure_once(student: Path, tmp_path: Path) -> None:
    device = devices.choose("cpu", "float32")
    measured = {selection._key(student, device, 1): {"runtime": "torch"}}
    with ThreadPoolExecutor(1) as second:
        with selection._exclusive(tmp_path):
            waiting = second.submit(name, student, "auto", tmp_path)
            time.sleep(0.5)
            assert not waiting.done()
            selection._write(tmp_path / selection.MEASURED, measured)
        assert waiting.result() == "torch"
    assert json.loads((tmp_path / selection.MEASURED).read_text()) == measured


@pytest.mark.parametrize("kept", [{}, None, "openvino"])
def test_a_failed_measurement_is_repeated(
    student: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kept: object
) -> None:
    pytest.importorskip("openvino")
    file = tmp_path / selection.MEASURED
    key = selection._key(student, devices.choose("cpu", "float32"), 1)
    file.write_text(json.dumps({key: kept}))
    monkeypatch.setenv("PYTHONHOME", str(tmp_path / "missing"))  # no other process starts
    assert name(student, "auto", tmp_path) == "torch"
    assert set(json.loads(file.read_text())[key]) == {"error"}


def test_a_measurement_that_cannot_be_stored_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    selection._write(tmp_path / "file" / selection.MEASURED, {})


@pytest.mark.parametrize("runtime", ["auto", "openvino"])
def test_a_teacher_is_computed_by_torch(tiny_release: Path, tmp_path: Path, runtime: str) -> None:
    assert name(tiny_release, runtime, tmp_path) == "torch"
    assert list(tmp_path.iterdir()) == []


def test_without_openvino_torch_is_used(
    student: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    assert name(student, "auto", tmp_path) == "torch"
    with pytest.raises(DeviceUnavailable, match="openvino is not installed"):
        name(student, "openvino")


def test_what_openvino_does_not_support_is_refused(student: Path) -> None:
    pytest.importorskip("openvino")
    with pytest.raises(DeviceUnavailable, match="float32 or bfloat16"):
        pipelines.load(student, device="cpu", dtype="float16", runtime="openvino")
    gpu = Device(torch.device("cuda", 0), torch.float32, "")
    assert "serves CPUs, not cuda" in selection.why_not_openvino(gpu)
    with pytest.raises(DeviceUnavailable, match="'fastest' is unknown"):
        pipelines.load(student, device="cpu", runtime="fastest")
