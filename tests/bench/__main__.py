"""Run the benchmarks: the student beside its teacher in stock diffusers, then the whole stack with the student.

make bench                              # distilled and stack, about ten minutes on two idle cores
make bench ARGS="distilled --rounds 9"
make bench ARGS="sd15"                  # the true Stable Diffusion 1.5 shape, 512 × 512, random weights
make bench ARGS="cuda"                  # the same on a CUDA device, and the starter's student on it
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import psutil

from generation.engine import release
from generation.engine.errors import ReleaseInvalid
from tests.bench import distilled, stack

STARTER = Path(__file__).resolve().parents[2] / "generation" / "starter"
PARTS = ("distilled", "stack", "sd15", "cuda")
USUAL = ("distilled", "stack")
ROUNDS = 5


def say(text: str) -> None:
    print(text, flush=True)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "parts", nargs="*", help=f"of {', '.join(PARTS)}; default: {' '.join(USUAL)}"
    )
    parser.add_argument(
        "--student",
        type=Path,
        default=STARTER / "student-2",
        help="a bundle; default: the starter's",
    )
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"default: {ROUNDS}")
    parser.add_argument("--json", type=Path, help="write the figures to this file as well")
    options = parser.parse_args(arguments)
    parts = options.parts or list(USUAL)
    if unknown := sorted(set(parts) - set(PARTS)):
        parser.error(f"unknown parts: {', '.join(unknown)}. There are {', '.join(PARTS)}.")
    if options.rounds < 1:
        parser.error("--rounds must be at least 1")
    figures: dict[str, Any] = {
        "cores": psutil.cpu_count(),
        "memory_bytes": psutil.virtual_memory().total,
    }
    say(f"{figures['cores']} cores, {figures['memory_bytes'] / 2**30:.0f} GiB.")
    load = psutil.getloadavg()[0]
    if load > 0.5:
        say(f"This machine is not idle: its load average of the last minute is {load:.1f}.")
        figures["load_before"] = load
    if set(parts) & set(USUAL):
        try:
            name = release.read(options.student).name
        except ReleaseInvalid as error:
            parser.error(f"{error.detail} Or name a bundle: --student DIR")
    if "distilled" in parts:
        figures["distilled"] = distilled.measure(
            options.student, STARTER / "teacher", rounds=options.rounds, say=say
        )
    if set(parts) & set(USUAL):
        say("\nStarting a stack …")
        with stack.serving(options.student) as serving:
            figures["stack_memory"] = stack.memories(serving, say)
            if "stack" in parts:
                figures["stack"] = stack.measure(
                    serving, student=name, rounds=options.rounds, say=say
                )
            figures["student_alone"] = stack.student_alone(serving, say)
    if "sd15" in parts:
        from tests.bench import sd15  # it loads torch into this process

        figures["sd15"] = sd15.measure(rounds=min(options.rounds, sd15.ROUNDS), say=say)
    if "cuda" in parts:
        figures["cuda"] = _cuda(options.student, rounds=options.rounds)
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n")
        say(f"\nThe figures are in {options.json}.")
    return 0


def _cuda(student: Path, *, rounds: int) -> dict[str, Any]:
    import torch

    from tests.bench import sd15

    if not torch.cuda.is_available():
        say("\ncuda is left out: torch finds no CUDA device.")
        return {}
    say(f"\n{torch.cuda.get_device_name()}")
    return {
        "distilled": distilled.measure(
            student, STARTER / "teacher", rounds=rounds, say=say, device="cuda"
        ),
        "sd15": sd15.measure(rounds=rounds, say=say, device="cuda"),
    }


if __name__ == "__main__":
    sys.exit(main())
