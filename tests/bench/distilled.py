"""The distilled student in our engine beside its teacher in stock diffusers: time, memory, bytes. In turns."""

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from generation.engine import release
from tests.bench.processes import QUIET, ROOT, Process

DTYPES = ("float32", "bfloat16")
STEPS = 50
ENGINE_IMAGES = 20  # of one turn
TEXTS = (
    "a red glass vase on a wooden table",
    "a blue clay bowl on a marble slab",
)
Say = Callable[[str], None]


def measure(
    student: Path,
    teacher: Path,
    *,
    rounds: int,
    say: Say,
    steps: int = STEPS,
    engine_images: int = ENGINE_IMAGES,
) -> dict[str, Any]:
    """Print and return everything.

    steps: of the teacher that are run; fewer than STEPS are extrapolated, and the output says so. engine_images: of one
    turn of the engine.
    """
    guidance = release.read(teacher).guidance_scale
    stock: dict[str, list[dict[str, float]]] = {dtype: [] for dtype in DTYPES}
    ours: list[dict[str, Any]] = []
    asked = (guidance, steps, *TEXTS)
    with (
        Process("stock", teacher, "float32", *asked) as fp32,
        Process("stock", teacher, "bfloat16", *asked) as bf16,
        Process("engine", student) as engine,
        Process("libraries") as libraries,
    ):
        stocks = dict(zip(DTYPES, (fp32, bf16), strict=True))
        for process in stocks.values():
            process.images(1)  # what is made at the first call is not counted
        for _ in tqdm(range(rounds), desc="in turns", leave=False, disable=None):
            for dtype, process in stocks.items():
                stock[dtype].append(_of_one(process.images(1), steps))
            ours.append(_of_many(engine.images(engine_images)))
        device = engine.images(1)["device"]
        taken = {
            **{f"stock {dtype}": process.memory() for dtype, process in stocks.items()},
            "engine": engine.memory(),
            "libraries": libraries.memory(),
        }
        loading = {dtype: process.load_seconds for dtype, process in stocks.items()}
        loading["engine"] = engine.load_seconds
    faster = min(DTYPES, key=lambda dtype: _median(stock[dtype], "seconds"))
    ratio = statistics.median(
        theirs["seconds"] / mine["seconds"]
        for theirs, mine in zip(stock[faster], ours, strict=True)
    )
    slowest, fastest = _median(stock[faster], "seconds"), _median(ours, "seconds")
    say(f"\nOne picture, batch 1, {device}, median of {rounds} rounds in turns")
    for dtype in DTYPES:
        parts = {part: _median(stock[dtype], part) for part in ("before", "step", "decoder")}
        say(
            f"  stock diffusers, teacher, {dtype:<8}  {1000 * _median(stock[dtype], 'seconds'):9.1f} ms"
            f"  text {1000 * parts['before']:.0f}, {STEPS} steps × {1000 * parts['step']:.1f},"
            f" decoder {1000 * parts['decoder']:.1f}{'   ← the faster' if dtype == faster else ''}"
        )
    if steps != STEPS:
        say(f"    EXTRAPOLATED: {steps} steps were run; text + {STEPS} × step + decoder")
    say(
        f"  our engine, student, {len(release.read(student).timesteps)} step(s)    {1000 * fastest:9.2f} ms"
        f"  U-Net {1000 * _median(ours, 'unet'):.2f}, decoder {1000 * _median(ours, 'decoder'):.2f};"
        f" its WebP file apart: {1000 * _median(ours, 'file'):.2f}"
    )
    say(f"  time per image: {ratio:.0f} times shorter (target: 100)")
    say("\nResident memory of a process that loaded and generated")
    for name, seen in taken.items():
        say(f"  {name:<16} {seen}")
    disk = _disk(student, teacher, say)
    return {
        "rounds": rounds,
        "device": device,
        "stock": {
            dtype: {key: _median(rows, key) for key in rows[0]} for dtype, rows in stock.items()
        },
        "stock_steps_run": steps,
        "stock_is_extrapolated": steps != STEPS,
        "faster_stock": faster,
        "stock_seconds_per_image": slowest,
        "engine": {key: _median(ours, key) for key in ours[0]},
        "engine_seconds_per_image": fastest,
        "time_ratio": ratio,
        "load_seconds": loading,
        "memory": {name: seen.plain() for name, seen in taken.items()},
        "disk": disk,
    }


def _of_one(answer: dict[str, Any], steps: int) -> dict[str, float]:
    """A picture of stock diffusers with STEPS steps; measured whole if so many were run."""
    (parts,), (seconds,) = answer["parts"], answer["seconds"]
    if steps != STEPS:
        seconds = parts["before"] + STEPS * parts["step"] + parts["decoder"]
    return {"seconds": seconds, **parts}


def _of_many(answer: dict[str, Any]) -> dict[str, float]:
    parts = answer["parts"]
    return {
        "seconds": statistics.median(answer["seconds"]),
        **{key: statistics.median(part[key] for part in parts) for key in parts[0]},
    }


def _median(rows: Sequence[dict[str, float]], key: str) -> float:
    return statistics.median(row[key] for row in rows)


# --- bytes ----------------------------------------------------------------------------------------
SAVE_FP32 = """
import sys, torch
from diffusers import StableDiffusionPipeline
from diffusers.utils import logging as diffusers_logging
from transformers.utils import logging as transformers_logging
diffusers_logging.disable_progress_bar()
transformers_logging.disable_progress_bar()
pipe = StableDiffusionPipeline.from_pretrained(sys.argv[1], torch_dtype=torch.float32, local_files_only=True,
                                               safety_checker=None, requires_safety_checker=False)
pipe.save_pretrained(sys.argv[2])
"""


def _disk(student: Path, teacher: Path, say: Say) -> dict[str, Any]:
    """Bytes of the bundle, of the teacher's release, and of the teacher as diffusers saves it in fp32."""
    scratch = Path(tempfile.mkdtemp(prefix="retort-fp32-"))
    try:
        subprocess.run(
            [sys.executable, "-c", SAVE_FP32, str(teacher), str(scratch / "teacher")],
            cwd=ROOT, env={**os.environ, **QUIET}, check=True, stdout=subprocess.DEVNULL,
        )  # fmt: skip
        sizes = {
            "bundle": folder_bytes(student),
            "teacher_release": folder_bytes(teacher),
            "teacher_fp32": folder_bytes(scratch / "teacher"),
        }
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    ratio = sizes["teacher_fp32"] / sizes["bundle"]
    parts = {
        part: sum(
            file.size_bytes for file in release.read(student).files if file.path.startswith(part)
        )
        for part in ("unet", "vae", "prompt_embeds")
    }
    said = ", ".join(f"{part} {size / 1e6:.2f}" for part, size in parts.items())
    say("\nBytes on disk")
    say(
        f"  student's bundle        {sizes['bundle'] / 1e6:9.2f} MB  ({said}; nothing else is needed)"
    )
    say(f"  teacher's release       {sizes['teacher_release'] / 1e6:9.2f} MB")
    say(f"  teacher's fp32 folder   {sizes['teacher_fp32'] / 1e6:9.2f} MB")
    say(f"  the bundle is {ratio:.1f} times smaller than the fp32 folder (target: 20)")
    return {**sizes, "bundle_parts": parts, "ratio": ratio}


def folder_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
