"""Choice of a release's runtime: by the setting, or by a measurement made once per machine and release."""

import fcntl
import importlib.metadata
import importlib.util
import json
import math
import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import torch

from generation.engine import classes
from generation.engine import release as releases
from generation.engine.classes import FOLDED_UNET, SHUFFLED_VAE, TINY_VAE
from generation.engine.device import Device, cpu_has_bf16
from generation.engine.errors import DeviceUnavailable
from generation.engine.release import Manifest
from generation.engine.runtimes import NAMES, Runtime
from generation.engine.runtimes.conversion import PROJECT

MEASURED = "measured.json"
LOCK = "measured.lock"


def load(
    folder: Path,
    manifest: Manifest,
    device: Device,
    *,
    name: str,
    threads: int,
    cache: Path | None,
) -> Runtime:
    """Load a release's networks. name: one of NAMES; threads: CPU threads that will compute.

    Raises DeviceUnavailable, ReleaseInvalid, OSError, ValueError, KeyError, RuntimeError and SafetensorError.
    """
    if name not in NAMES:
        raise DeviceUnavailable(f"The runtime {name!r} is unknown. Give {', '.join(NAMES)}.")
    if name == "torch" or not _is_student(folder):
        return _torch(folder, manifest, device)
    reason = why_not_openvino(device)
    if name == "openvino":
        if reason:
            raise DeviceUnavailable(f"RUNTIME=openvino: {reason}")
        return _openvino(folder, manifest, device, threads=threads, cache=cache)
    if device.place.type == "cuda":
        return _torch(folder, manifest, device, compiled=True)
    if reason:
        return _torch(folder, manifest, device)
    return _faster(folder, manifest, device, threads=threads, cache=cache)


def why_not_openvino(device: Device) -> str:
    """Return why OpenVINO does not support this device and dtype, or ""."""
    if importlib.util.find_spec("openvino") is None:
        return "the package openvino is not installed. Install it, or use RUNTIME=torch."
    if device.place.type != "cpu":
        return f"it serves CPUs, not {device.place.type}. Use DEVICE=cpu or RUNTIME=torch."
    if device.dtype == torch.float16:
        return "it computes in float32 or bfloat16. Use another DTYPE or RUNTIME=torch."
    if device.dtype == torch.bfloat16 and not cpu_has_bf16():
        return "this CPU has no bf16 instructions. Use DTYPE=float32 or RUNTIME=torch."
    return ""


def _is_student(folder: Path) -> bool:
    found = classes.read(folder)
    return found["unet"] == FOLDED_UNET and found["vae"] in (TINY_VAE, SHUFFLED_VAE)


def _torch(folder: Path, manifest: Manifest, device: Device, *, compiled: bool = False) -> Runtime:
    from generation.engine.runtimes import torch as runtime  # diffusers takes seconds to import

    return runtime.load(folder, manifest, device, compiled=compiled)


def _openvino(
    folder: Path, manifest: Manifest, device: Device, *, threads: int, cache: Path | None
) -> Runtime:
    from generation.engine.runtimes.openvino import OpenVINORuntime

    return OpenVINORuntime(folder, manifest, device, threads=threads, cache=cache)


# --- by measurement -------------------------------------------------------------------------------
def _faster(
    folder: Path, manifest: Manifest, device: Device, *, threads: int, cache: Path | None
) -> Runtime:
    measured = cache / MEASURED if cache is not None else None
    key = _key(folder, device, threads)
    with _exclusive(cache):
        found = _read(measured).get(key) if measured else None
        if not isinstance(found, dict) or found.get("runtime") not in ("torch", "openvino"):
            found = _measured(folder, device, threads=threads, cache=cache)
            if measured:
                _write(measured, {**_read(measured), key: found})
    if found.get("runtime") == "openvino":
        return _openvino(folder, manifest, device, threads=threads, cache=cache)
    return _torch(folder, manifest, device)


@contextmanager
def _exclusive(cache: Path | None) -> Iterator[None]:
    """Hold a file lock, so that workers that start together measure once. Does nothing without a cache."""
    with ExitStack() as stack:
        with suppress(OSError):
            if cache is not None:
                cache.mkdir(parents=True, exist_ok=True)
                fcntl.flock(stack.enter_context((cache / LOCK).open("w")), fcntl.LOCK_EX)
        yield


def _measured(
    folder: Path, device: Device, *, threads: int, cache: Path | None
) -> dict[str, object]:
    """Return a measurement made in a subprocess.

    After an error torch is used until the next load, which measures again: disk or memory may have been full.
    """
    command = [sys.executable, "-m", "generation.engine.runtimes.measurement"]
    arguments = [str(folder.resolve()), device.dtype_name, str(threads)]
    if cache is not None:
        arguments.append(str(cache.resolve()))
    done = subprocess.run(
        command + arguments, cwd=PROJECT, capture_output=True, text=True, check=False
    )
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        return {"error": lines[-1]}
    seconds: dict[str, dict[str, float]] = json.loads(done.stdout.splitlines()[-1])
    chosen = min(seconds, key=lambda name: math.prod(seconds[name].values()))
    return {"runtime": chosen, "seconds": seconds}


def _key(folder: Path, device: Device, threads: int) -> str:
    """Return the key of a measurement: machine, release and versions."""
    version = importlib.metadata.version("openvino")
    parts = (
        releases.hash_file(folder / releases.MANIFEST)[:16],
        _processor(),
        f"{threads} threads",
        device.dtype_name,
        f"torch {torch.__version__}",
        f"openvino {version}",
    )
    return ", ".join(parts)


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8", "replace").splitlines()
    except OSError:
        return platform.processor()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _read(path: Path) -> dict[str, object]:
    try:
        found = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _write(path: Path, found: dict[str, object]) -> None:
    """Write the file. Does nothing if the disk cannot be written: the next process measures again."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(json.dumps(found, indent=2) + "\n", "utf-8")
        os.replace(temporary, path)
    except OSError:
        with suppress(OSError):
            temporary.unlink()
