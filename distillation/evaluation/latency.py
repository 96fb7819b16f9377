"""Latency, throughput and memory of a release, measured in a separate process.

In a new process no memory of other networks and no earlier peak is counted. Run as a program, this module measures one
release; it writes an empty line for each pass and finally one line of JSON. `measure` starts that program.
"""

import gc
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median, quantiles

import psutil
from safetensors.torch import load_file, save_file

from distillation.evaluation.prompts import Prompts
from distillation.resumable.progress import Bar
from generation.engine import pipeline as pipelines
from generation.engine.files import FORMATS, encode
from generation.engine.pipeline import Pipeline
from generation.engine.prompts.embeddings import pack
from generation.engine.release import Manifest
from generation.engine.request import GenerationRequest, Timings

ROOT = Path(__file__).resolve().parents[2]  # the folder of the packages
PARTS = ("total", "unet", "decoder", "file")


class SpeedNotMeasured(Exception):
    """The measuring process failed."""


@dataclass(frozen=True)
class SpeedRecipe:
    """calls: timed calls of one picture, after `warm_up` others; batches: batch sizes, each timed `rounds` times."""

    calls: int = 20
    warm_up: int = 3
    batches: tuple[int, ...] = (8, 16)
    rounds: int = 2
    output_format: str = "webp"
    device: str = "auto"
    threads: int = 0  # 0 = torch decides

    def __post_init__(self) -> None:
        if self.calls < 2 or self.warm_up < 0 or self.rounds < 1:
            raise ValueError("calls: two or more, after warm_up calls; rounds: one or more.")
        if min(self.batches, default=1) < 1:
            raise ValueError(f"batches: sizes from 1, not {self.batches}.")
        if self.output_format not in FORMATS:
            raise ValueError(f"output_format: one of {', '.join(FORMATS)}.")


@dataclass(frozen=True)
class Seconds:
    """Seconds of one picture."""

    median: float
    p95: float


@dataclass(frozen=True)
class Memory:
    """Resident bytes of the process. libraries: before loading the release; loaded: after; settled: after its pictures.

    Measured with one picture at a time. device_peak: GPU memory used by the release, 0 on a CPU.
    """

    libraries: int
    loaded: int
    settled: int
    peak: int
    device_peak: int


@dataclass(frozen=True)
class Speed:
    """seconds: of one picture, by PARTS; images_per_second: by the size of a batch, without files."""

    device: str
    calls: int
    seconds: dict[str, Seconds]
    images_per_second: dict[int, float]
    memory: Memory


def measure(
    release: Path, prompts: Prompts, recipe: SpeedRecipe, *, runtime: str = "torch"
) -> Speed:
    """Measure a release in a new process. runtime: see `engine.pipeline.load`. Raises SpeedNotMeasured."""
    most = max(recipe.batches, default=1)
    with tempfile.TemporaryDirectory(prefix="retort-speed-") as folder:
        file = Path(folder) / "prompts.safetensors"
        save_file({"prompt_embeds": prompts.prompt_embeds[:most].half().contiguous()}, file)
        (Path(folder) / "recipe.json").write_text(json.dumps(asdict(recipe)), "utf-8")
        command = [sys.executable, "-m", __name__, str(Path(release).resolve()), str(file), runtime]
        code, said = _run(command, Path(folder), passes=_passes(recipe))
    if code:
        raise SpeedNotMeasured(f"{release} could not be measured: {said[-2000:]}")
    return _speed(json.loads(said))


def _run(command: list[str], folder: Path, *, passes: int) -> tuple[int, str]:
    """Run the program on the recipe in the folder. Return its code, and its last line or its errors."""
    last, bar = "", Bar(passes, title="speed", unit="pass", is_shown=False)
    with (
        (folder / "recipe.json").open() as given,
        (folder / "errors").open("w+", encoding="utf-8", errors="replace") as errors,
        bar,
        subprocess.Popen(
            command, cwd=ROOT, stdin=given, stdout=subprocess.PIPE, stderr=errors, text=True
        ) as process,
    ):
        try:
            for line in process.stdout or ():
                last = line
                if not line.strip():
                    bar.add()
        except BaseException:
            process.kill()
            raise
        code = process.wait()
        errors.seek(0)
        return code, errors.read().strip() if code else last


def _passes(recipe: SpeedRecipe) -> int:
    return recipe.warm_up + recipe.calls + len(recipe.batches) * (recipe.rounds + 1)


def bytes_by_component(manifest: Manifest) -> dict[str, int]:
    """Return the bytes on disk by folder or top-level file, the largest first."""
    found: dict[str, int] = {}
    for file in manifest.files:
        name = file.path.split("/")[0]
        found[name] = found.get(name, 0) + file.size_bytes
    return dict(sorted(found.items(), key=lambda item: -item[1]))


# --- in the new process ---------------------------------------------------------------------------
def measure_here(
    release: Path,
    prompts: Path,
    recipe: SpeedRecipe,
    *,
    runtime: str = "torch",
    on_pass: Callable[[], object] = lambda: None,
) -> Speed:
    """Measure a release in this process, which should have loaded nothing else. on_pass: called after each pass."""
    libraries = _resident()
    pipeline = pipelines.load(
        release,
        device=recipe.device,
        threads=recipe.threads,
        runtime=runtime,
        cache=prompts.parent / "runtimes",
    )
    requests = _requests(pipeline.manifest, prompts)
    loaded = _resident()
    taken: dict[str, list[float]] = {part: [] for part in PARTS}
    for call in range(recipe.warm_up + recipe.calls):
        # One prompt: the cached embedding of a pipeline is resident in a service too.
        request = replace(requests[0], seed=call)
        seconds = _one(pipeline, request, recipe.output_format)
        on_pass()
        if call >= recipe.warm_up:
            for part, value in seconds.items():
                taken[part].append(value)
    gc.collect()
    memory = Memory(libraries, loaded, _resident(), _peak(pipeline), _device_peak(pipeline))
    throughput = {
        size: _throughput(pipeline, requests, size, recipe.rounds, on_pass)
        for size in recipe.batches
    }
    return Speed(
        pipeline.describe(),
        recipe.calls,
        {part: Seconds(median(values), _p95(values)) for part, values in taken.items()},
        throughput,
        memory,
    )


def _requests(manifest: Manifest, file: Path) -> list[GenerationRequest]:
    embeds = load_file(file)["prompt_embeds"].numpy()
    size = manifest.image_sizes[0]
    return [
        GenerationRequest(pack(rows, manifest.encoder_fingerprint), seed, *size)
        for seed, rows in enumerate(embeds)
    ]


def _one(pipeline: Pipeline, request: GenerationRequest, output_format: str) -> dict[str, float]:
    timings = Timings()
    started = time.perf_counter()
    [result] = pipeline.generate([request], timings=timings)
    made = time.perf_counter()
    if result.pixels is None:
        raise result.error or RuntimeError("The engine returned no picture.")
    encode(result.pixels, output_format)
    done = time.perf_counter()
    return {
        "total": done - started,
        "unet": timings.unet_seconds,
        "decoder": timings.decoder_seconds,
        "file": done - made,
    }


def _throughput(
    pipeline: Pipeline,
    requests: Sequence[GenerationRequest],
    size: int,
    rounds: int,
    on_pass: Callable[[], object],
) -> float:
    """Return images per second in batches of `size`, the best of the rounds after a warm-up."""
    batch = [requests[row % len(requests)] for row in range(size)]
    best = float("inf")
    for number in range(rounds + 1):
        started = time.perf_counter()
        pipeline.generate(batch)
        if number:
            best = min(best, time.perf_counter() - started)
        on_pass()
    return size / best


def _p95(values: Sequence[float]) -> float:
    return quantiles(values, n=20, method="inclusive")[-1]


def _resident() -> int:
    return int(psutil.Process().memory_info().rss)


def _peak(pipeline: Pipeline) -> int:
    """Return `VmHWM` of the kernel: the peak of getrusage includes the parent process."""
    try:
        lines = Path("/proc/self/status").read_text("utf-8").splitlines()
    except OSError:  # not Linux: there the peak is of the program alone
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024
    [kibibytes] = [line.split()[1] for line in lines if line.startswith("VmHWM:")]
    return int(kibibytes) * 1024


def _device_peak(pipeline: Pipeline) -> int:
    return 0 if pipeline.device.place.type == "cpu" else pipeline.device.peak_memory_bytes()


# --- between the two processes --------------------------------------------------------------------
def _speed(value: dict) -> Speed:
    return Speed(
        value["device"],
        value["calls"],
        {part: Seconds(**seconds) for part, seconds in value["seconds"].items()},
        {int(size): rate for size, rate in value["images_per_second"].items()},
        Memory(**value["memory"]),
    )


def main() -> None:
    release, prompts, runtime = sys.argv[1:]
    values = json.load(sys.stdin)
    recipe = SpeedRecipe(**{**values, "batches": tuple(values["batches"])})

    def on_pass() -> None:
        sys.stdout.write("\n")
        sys.stdout.flush()

    found = measure_here(Path(release), Path(prompts), recipe, runtime=runtime, on_pass=on_pass)
    sys.stdout.write(f"{json.dumps(asdict(found))}\n")


if __name__ == "__main__":
    main()
