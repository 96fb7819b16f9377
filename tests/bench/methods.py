"""The methods of the structure stage side by side: the same student, steps and seeds with each recipe's objective.

python -m tests.bench.methods --steps 1500 --seeds 3      # hours; resumes; needs the pairs of `make distill`

Each training is the stage that `manage.py distill` would run, in the same folders. Measured on held-out pairs that are
the same for all: the squared error of the prediction to the guided teacher's at random timesteps, and the pictures of
ten passes, drawn by the teacher's VAE and judged by the detector.
"""

import argparse
import json
import statistics
import sys
import time
from pathlib import Path

import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

from distillation.detector import network as detectors
from distillation.pipeline import overrides, recipes
from distillation.pipeline.inputs import Inputs
from distillation.pipeline.stages import Chain
from distillation.trainers import pairs
from distillation.trainers.pairs import Pairs
from distillation.trainers.rollout import Rollout
from distillation.training import networks
from generation.engine.latents import as_uint8

ROOT = Path(__file__).resolve().parents[2]
TEACHER = ROOT / "generation" / "starter" / "teacher"
JUDGES = ROOT / "distillation" / "starter" / "judges"
METHODS = ("starter-1step", "hinton", "ensemble", "mmd", "bayes")  # the first: guidance
PASSES = tuple(range(999, 0, -100))
AT_ONCE = 32


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench.methods",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--data", type=Path, default=ROOT / ".retort" / "data" / "distillation")
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--pairs", type=int, default=256, help="held-out ones that are measured on")
    options = parser.parse_args()
    catalogues = sorted(options.data.glob("catalogue-*"), key=lambda path: path.stat().st_mtime)
    if not catalogues:
        parser.error(
            f"{options.data} holds no catalogue. Make the pairs: make distill ARGS='--only pairs'"
        )
    found: dict[str, list[dict[str, float]]] = {name: [] for name in METHODS}
    for seed in range(options.seeds):
        for name in METHODS:
            recipe = overrides.changed(
                recipes.named(name), {"structure": {"steps": options.steps, "seed": seed}}
            )
            inputs = Inputs(
                TEACHER, catalogues[-1], detector=JUDGES / "detector", clip=JUDGES / "clip"
            )
            chain = Chain(recipe, inputs, name="methods")
            started = time.monotonic()
            folders = chain.build(options.data, only=["structure"])
            seconds = time.monotonic() - started
            measured = measure(chain, folders["pairs"], folders["structure"], options.pairs)
            found[name].append(measured | {"seconds": seconds})
            print(name, seed, json.dumps(found[name][-1]), flush=True)
    print(f"\n{options.steps} steps, {options.seeds} seeds, {options.pairs} held-out pairs")
    for name, rows in found.items():
        print(f"{name:15}", "  ".join(_said(rows, key) for key in ("error", "right", "seconds")))
    return 0


@torch.no_grad()
def measure(chain: Chain, of_pairs: Path, trained: Path, count: int) -> dict[str, float]:
    """error: mean square of the prediction's; right: share of pictures with all attributes."""
    teacher, catalogue = chain.teacher, chain.catalogue
    held_out = pairs.read(of_pairs, "held_out")
    held_out = held_out.take(torch.linspace(0, len(held_out) - 1, count).round().long())
    student = networks.load(UNet2DConditionModel, trained / "unet")
    student.set_attn_processor(teacher.attention_processor())
    detector = detectors.load(JUDGES / "detector")
    generator = torch.Generator().manual_seed(0)
    errors, right = [], []
    for rows in torch.arange(count).split(AT_ONCE):
        part: Pairs = held_out.take(rows)
        embeds = catalogue.embeds(part.prompts)
        clean, noise = part.latents.float(), part.noise(torch.arange(len(part)))
        times = torch.randint(len(teacher.schedule), (len(part),), generator=generator)
        noised = teacher.schedule.noised(
            clean, torch.randn(clean.shape, generator=generator), times
        )
        with teacher.autocast():
            output = student(noised, times, encoder_hidden_states=embeds, return_dict=False)[0]
        difference = output.float() - teacher.predict(noised, times, embeds)
        errors.append(difference.square().flatten(1).mean(1))
        latents = Rollout(teacher, PASSES).walk(student, noise, embeds)
        shown = detector.probabilities(as_uint8(teacher.decode(latents)).cpu())
        config = detector.config
        right.append(
            pairs.as_stated(
                shown, part.prompts, catalogue, groups=config.groups, thresholds=detector.thresholds
            )
        )
    return {
        "error": float(torch.cat(errors).mean()),
        "right": float(torch.cat(right).float().mean()),
    }


def _said(rows: list[dict[str, float]], key: str) -> str:
    values = [row[key] for row in rows]
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{key} {statistics.mean(values):.4f} ± {deviation:.4f}"


if __name__ == "__main__":
    sys.exit(main())
