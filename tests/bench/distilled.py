"""The distilled student in our engine beside its teacher in stock diffusers: time, memory, bytes. In turns.

Columns: stock diffusers with the teacher and with the student's own weights, and the engine on each runtime.
"""

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm

from generation.engine import release
from tests.bench.processes import QUIET, ROOT, Process

STEPS = 50
STEPS_OF_BATCHES = 4  # that the teacher runs for batches above 1; the rest is extrapolated
BATCHES = (1, 4, 8)
ENGINE_IMAGES = 20  # calls of one turn
SECONDS = 240  # no round starts later
TEXTS = (
    "a red glass vase on a wooden table",
    "a blue clay bowl on a marble slab",
)
Say = Callable[[str], None]
Row = dict[str, float]


@dataclass
class Column:
    """A pipeline under comparison. turns: the rows of all rounds by batch size, in seconds per picture."""

    title: str
    process: Process
    steps: int
    is_slow: bool = False  # one call per turn, and fewer steps for batches
    turns: dict[int, list[Row]] = field(default_factory=dict)

    def take(self, batch: int, calls: int) -> None:
        """Run one turn."""
        steps = self.steps if batch == 1 or not self.is_slow else min(self.steps, STEPS_OF_BATCHES)
        answer = self.process.images(1 if self.is_slow else calls, batch=batch, steps=steps)
        row = _row_of_call(answer, steps) if self.is_slow else _median_row(answer)
        self.turns.setdefault(batch, []).append({key: row[key] / batch for key in row})

    def median(self, batch: int, key: str = "seconds") -> float:
        return statistics.median(row[key] for row in self.turns[batch])


def measure(
    student: Path,
    teacher: Path,
    *,
    rounds: int,
    say: Say,
    steps: int = STEPS,
    engine_images: int = ENGINE_IMAGES,
    device: str = "cpu",
    batches: Sequence[int] = BATCHES,
) -> dict[str, Any]:
    """Print and return everything.

    steps: of the teacher that are run; fewer than STEPS are extrapolated, and the output says so. engine_images: calls
    of one turn of the engine.
    """
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="retort-bench-")))
        columns = _columns(stack, scratch, student, teacher, steps=steps, device=device, say=say)
        libraries = stack.enter_context(Process("libraries"))
        for column in columns:
            column.process.images(1, batch=1, steps=2)  # warm-up, not counted
        ends, done = time.monotonic() + SECONDS, 0
        for _ in tqdm(range(rounds), desc="in turns", leave=False, disable=None):
            if done and time.monotonic() > ends:
                break
            for batch in batches:
                for column in columns:
                    column.take(batch, max(1, engine_images // batch))
            done += 1
        described = {
            column.title: column.process.images(1, batch=1, steps=min(2, column.steps)).get(
                "device", ""
            )
            for column in columns
        }
        memory = {column.title: column.process.memory() for column in columns}
        memory["libraries"] = libraries.memory()
        loading = {column.title: column.process.load_seconds for column in columns}
        loading["libraries"] = libraries.load_seconds
    teachers = [column for column in columns if column.is_slow]
    engines = [column for column in columns if column.title.startswith("engine")]
    ratios = {batch: _ratio(teachers, engines, batch) for batch in batches}
    _show(columns, described, ratios, batches, done=done, steps=steps, say=say)
    say("\nSeconds to load, and resident memory of a process that generated")
    for title, seen in memory.items():
        say(f"  {title:<48} {loading[title]:5.1f} s  {seen}")
    return {
        "rounds": done,
        "device": device,
        "described": described,
        "seconds_per_image": {
            column.title: {
                str(batch): {key: column.median(batch, key) for key in column.turns[batch][0]}
                for batch in batches
            }
            for column in columns
        },
        "stock_steps_run": steps,
        "stock_steps_run_of_batches": min(steps, STEPS_OF_BATCHES),
        "time_ratio": {str(batch): found._asdict() for batch, found in ratios.items()},
        "load_seconds": loading,
        "memory": {title: seen.plain() for title, seen in memory.items()},
        "disk": _disk(student, teacher, say),
    }


def _columns(
    stack: ExitStack,
    scratch: Path,
    student: Path,
    teacher: Path,
    *,
    steps: int,
    device: str,
    say: Say,
) -> list[Column]:
    """Return the columns with loaded processes. What this machine cannot run is left out and named."""
    from generation.engine import device as devices  # it loads torch into this process
    from generation.engine import exporting
    from generation.engine.runtimes import selection

    chosen = devices.choose(device)
    dtypes = ["float32"]
    if device != "cpu" or devices.cpu_has_bf16():
        dtypes.append(chosen.dtype_name)
    else:
        say("bfloat16 is left out: this CPU has no bf16 instructions.")
    manifest = release.read(student)
    exporting.export(student, scratch / "student", encoder_dir=teacher)
    columns = []

    runtimes = scratch / "runtimes"

    def add(title: str, kind: str, folder: Path, *arguments: object, of: int, slow: bool) -> None:
        process = stack.enter_context(Process(kind, folder, device, *arguments))
        columns.append(Column(title, process, of, slow))

    guidance = release.read(teacher).guidance_scale
    for dtype in dtypes:
        title = f"stock diffusers, teacher, {dtype}"
        add(title, "stock", teacher, dtype, guidance, *TEXTS, of=steps, slow=True)
    title = f"stock diffusers, the student's weights, {dtypes[-1]}"
    of = len(manifest.timesteps)
    add(title, "stock", scratch / "student", dtypes[-1], 1, *TEXTS, of=of, slow=False)
    add("engine, torch", "engine", student, "torch", runtimes, of=of, slow=False)
    if device == "cuda":
        add("engine, torch compiled", "engine", student, "auto", runtimes, of=of, slow=False)
    if reason := selection.why_not_openvino(chosen):
        say(f"OpenVINO is left out: {reason}")
    else:
        with Process("engine", student, device, "openvino", runtimes) as first:
            say(f"The first start with OpenVINO, which converts: {first.load_seconds:.1f} s.")
        add("engine, openvino", "engine", student, "openvino", runtimes, of=of, slow=False)
    return columns


class Ratio(NamedTuple):
    """Median, lowest and highest over the rounds."""

    median: float
    lowest: float
    highest: float


def _ratio(teachers: Sequence[Column], engines: Sequence[Column], batch: int) -> Ratio:
    """Return the faster teacher's time by the faster engine's."""
    theirs = min(teachers, key=lambda column: column.median(batch))
    ours = min(engines, key=lambda column: column.median(batch))
    found = [
        slow["seconds"] / fast["seconds"]
        for slow, fast in zip(theirs.turns[batch], ours.turns[batch], strict=True)
    ]
    return Ratio(statistics.median(found), min(found), max(found))


def _show(
    columns: Sequence[Column],
    described: dict[str, str],
    ratios: dict[int, Ratio],
    batches: Sequence[int],
    *,
    done: int,
    steps: int,
    say: Say,
) -> None:
    say(f"\nMilliseconds of a picture, alone and in batches, median of {done} rounds in turns")
    say(f"  {'':<48} " + "".join(f"{f'batch {batch}':>10}" for batch in batches))
    for column in columns:
        cells = "".join(f"{1000 * column.median(batch):10.2f}" for batch in batches)
        say(f"  {column.title:<48} {cells}  {described[column.title]}")
    cells = "".join(f"{ratios[batch].median:10.0f}" for batch in batches)
    say(f"  {'times shorter, the faster of each kind':<48} {cells}  (target: 100)")
    cells = "".join(
        f"{f'{ratios[batch].lowest:.0f}–{ratios[batch].highest:.0f}':>10}" for batch in batches
    )
    say(f"  {'  in the rounds, lowest to highest':<48} {cells}")
    extrapolated = [str(batch) for batch in batches if batch > 1 or steps != STEPS]
    if extrapolated:
        say(
            f"  EXTRAPOLATED, teacher, batch {', '.join(extrapolated)}: {min(steps, STEPS_OF_BATCHES)} steps were run; "
            f"text + {STEPS} × step + decoder"
        )
    for column in columns:
        parts = [key for key in column.turns[1][0] if key != "seconds"]
        cells = ", ".join(f"{part} {1000 * column.median(1, part):.2f}" for part in parts)
        say(f"    {column.title}, batch 1: {cells}")


def _row_of_call(answer: dict[str, Any], steps: int) -> Row:
    """Return the row of a call of stock diffusers with STEPS steps, extrapolated if fewer were run."""
    (parts,), (seconds,) = answer["parts"], answer["seconds"]
    if steps != STEPS:
        seconds = parts["before"] + STEPS * parts["step"] + parts["decoder"]
    return {"seconds": seconds, **parts}


def _median_row(answer: dict[str, Any]) -> Row:
    parts = answer["parts"]
    return {
        "seconds": statistics.median(answer["seconds"]),
        **{key: statistics.median(part[key] for part in parts) for key in parts[0]},
    }


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
    """Return the bytes of the bundle, of the teacher's release, and of the teacher as diffusers saves it in fp32."""
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
    listed = ", ".join(f"{part} {size / 1e6:.2f}" for part, size in parts.items())
    say("\nBytes on disk")
    say(
        f"  student's bundle        {sizes['bundle'] / 1e6:9.2f} MB  ({listed}; nothing else is needed)"
    )
    say(f"  teacher's release       {sizes['teacher_release'] / 1e6:9.2f} MB")
    say(f"  teacher's fp32 folder   {sizes['teacher_fp32'] / 1e6:9.2f} MB")
    say(f"  the bundle is {ratio:.1f} times smaller than the fp32 folder (target: 20)")
    return {**sizes, "bundle_parts": parts, "ratio": ratio}


def folder_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
