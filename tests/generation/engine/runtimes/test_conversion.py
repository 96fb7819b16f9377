"""Cache of converted networks: it saves time, and no result depends on it."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from generation.engine import pipeline as pipelines
from generation.engine import release
from generation.engine.request import GenerationRequest

pytest.importorskip("openvino")

from generation.engine.runtimes import conversion

RequestFor = Callable[..., GenerationRequest]


def picture(student: Path, cache: Path | None, request: GenerationRequest) -> np.ndarray:
    loaded = pipelines.load(student, device="cpu", dtype="float32", runtime="openvino", cache=cache)
    (result,) = loaded.generate([request])
    assert result.pixels is not None
    return result.pixels


@pytest.fixture
def own_cache(student: Path, cache: Path, tmp_path: Path) -> Path:
    """A private copy of the cache with the student's conversion."""
    name = conversion.key(student, release.read(student))
    shutil.copytree(cache / name, tmp_path / "runtimes" / name)
    return tmp_path / "runtimes"


def spoil(folder: Path, damage: str) -> None:
    weights, facts = folder / "unet.bin", folder / conversion.FACTS
    content = weights.read_bytes()
    if damage == "cut":
        weights.write_bytes(content[: len(content) // 2])
    elif damage == "altered":
        weights.write_bytes(content[:-1000] + bytes(1000))
    elif damage == "no facts":
        facts.unlink()
    elif damage == "a file is missing":
        weights.unlink()
    else:
        facts.write_text("[]")


def test_a_release_is_converted_once(
    student: Path, own_cache: Path, request_for: RequestFor
) -> None:
    (folder,) = own_cache.iterdir()
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert set(before) >= {"unet.bin", "decoder.bin", conversion.KEYVALUES, conversion.FACTS}
    picture(student, own_cache, request_for(0))
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == before


@pytest.mark.parametrize(
    "damage", ["cut", "altered", "a file is missing", "no facts", "facts of another form"]
)
def test_a_damaged_conversion_is_not_read(own_cache: Path, damage: str) -> None:
    (folder,) = own_cache.iterdir()
    assert conversion._read(folder) is not None
    spoil(folder, damage)
    assert conversion._read(folder) is None


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["cut", "no facts"])
def test_a_damaged_conversion_is_made_again(
    student: Path, own_cache: Path, request_for: RequestFor, damage: str
) -> None:
    (folder,) = own_cache.iterdir()
    expected = picture(student, own_cache, request_for(0))
    weights = folder / "unet.bin"
    content = weights.read_bytes()
    spoil(folder, damage)
    assert (picture(student, own_cache, request_for(0)) == expected).all()
    assert weights.read_bytes() == content
    assert conversion._read(folder) is not None


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="only root mounts a small disk")
def test_a_conversion_needs_no_space_in_the_temporary_folder(
    student: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tmp").mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", tmp_path / "tmp"]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("this machine mounts nothing")
    try:
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
        monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
        conversion.convert(student, release.read(student), tmp_path / "runtimes")
    finally:
        subprocess.run(["umount", tmp_path / "tmp"], check=True)
    (own_cache,) = (tmp_path / "runtimes").iterdir()
    assert conversion._read(own_cache) is not None


@pytest.mark.slow
def test_a_conversion_of_another_version_is_replaced(
    student: Path, own_cache: Path, request_for: RequestFor, monkeypatch: pytest.MonkeyPatch
) -> None:
    (before,) = own_cache.iterdir()
    monkeypatch.setattr(conversion, "REVISION", 99)
    picture(student, own_cache, request_for(0))
    (after,) = own_cache.iterdir()
    assert after.name != before.name


@pytest.mark.slow
def test_a_release_is_served_without_a_writable_folder(
    student: Path, tmp_path: Path, request_for: RequestFor
) -> None:
    (tmp_path / "file").write_text("no folder")
    picture(student, tmp_path / "file" / "runtimes", request_for(0))


@pytest.mark.slow
def test_a_release_that_cannot_be_converted_is_an_error(student: Path, tmp_path: Path) -> None:
    broken = tmp_path / "student"
    shutil.copytree(student, broken)
    (broken / "unet" / "config.json").write_text("{}")
    with pytest.raises(RuntimeError, match="The conversion to OpenVINO failed: KeyError"):
        conversion.convert(broken, release.read(broken), None)


@pytest.mark.slow
def test_openvino_sends_no_usage_data() -> None:
    code = (
        "import sys, generation.engine.runtimes.openvino as runtime\n"
        "from openvino import convert_model\n"
        "assert sys.modules['openvino_telemetry'] is None"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, timeout=600)
