"""Code that the tests of several processes run in each of them, started by `accelerate launch … -m`.

The final state of each process is written to FOLDER/RUN-RANK.safetensors, for the tests to compare.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch.nn.functional import mse_loss

from distillation.pipeline import overrides, recipes
from distillation.pipeline.inputs import Inputs
from distillation.pipeline.stages import Chain
from distillation.trainers import catalogue as catalogues
from distillation.trainers import pairs
from distillation.trainers import teacher as teachers
from distillation.trainers.catalogue import Catalogue
from distillation.trainers.pairs import PairsRecipe
from distillation.trainers.teacher import Teacher
from distillation.training import loop, optimizers, processes
from distillation.training.ema import Ema
from distillation.training.errors import TrainingDiverged
from distillation.training.task import Progress, Task

STEPS = 8
BATCH = 6
PAIRS = PairsRecipe(
    seeds_per_variant=4, num_inference_steps=2, path_timesteps=(499,), batch=2, written=2
)

TRAINED = ("decoder", "structure", "regression", "matching", "joint", "quantise")
SMALL = (
    "image_size=16", "timesteps=[999,499]", "student.cut=null",
    "pairs.seeds_per_variant=4", "pairs.num_inference_steps=4", "pairs.path_timesteps=[499]", "pairs.written=4",
    "pairs.batch=2", "decoder.channels=4", "decoder.blocks=[0,0]", "decoder.pictures=6", "decoder.validated=2",
    "regression.pass_weights=[1.0,1.0]", "regression.simulated=0.5", "regression.watched=2",
    "matching.critic_batch=4", "matching.paired=2", "matching.student_after=1", "matching.watched=2",
    "joint.least_margin=0.0", "joint.watched=2", "quantise.measured=2",
    *(f"{stage}.{setting}" for stage in TRAINED for setting in ("steps=3", "warmup=0", "batch=8")),
)  # fmt: skip


class Line:
    """A linear network on data that are the same in all processes; each takes every N-th row of a step's batch."""

    def __init__(self, *, seed: int = 0, losses: dict[int, float] | None = None) -> None:
        torch.manual_seed(seed)
        self.network = torch.nn.Sequential(torch.nn.Linear(5, 4), torch.nn.Linear(4, 3).double())
        self.average = Ema(self.network, decay=0.9)
        self.optimizer = optimizers.adamw(self.network, learning_rate=1e-2, weight_decay=0.01)
        self.modules = {"line": self.network}
        self.optimizers = {"line": self.optimizer}
        self.emas = {"line": self.average}
        self.losses = losses or {}
        self.draws: list[torch.Tensor] = []

    def step(self, index: int, generator: torch.Generator) -> dict[str, float]:
        self.draws.append(torch.rand(2, generator=generator))
        data = torch.randn(2, BATCH, 5, generator=torch.Generator().manual_seed(index))
        rows = slice(processes.rank(), None, processes.count())
        given, wanted = data[0, rows], data[1, rows, :3].double()
        loss = mse_loss(self.network[1](self.network[0](given).double()), wanted)
        norm = optimizers.update(self.optimizer, loss, clipped_norm=1.0)
        self.average.update()
        value = self.losses.get(index, loss.item())
        # The names come in another order in each process.
        named = {"loss": value, "norm": norm}
        return named if processes.is_main() else dict(reversed(named.items()))

    def state(self) -> dict[str, torch.Tensor]:
        parts = {"line": self.network, "average": self.average.module}
        state = {
            f"{name}.{key}": value.clone()
            for name, part in parts.items()
            for key, value in part.state_dict().items()
        }
        return state | {f"draw.{number}": draw for number, draw in enumerate(self.draws)}


class Interrupted(Line):
    """The last process alone gets SIGTERM in the fourth step."""

    def step(self, index: int, generator: torch.Generator) -> dict[str, float]:
        if index == 3 and processes.rank() == processes.count() - 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return super().step(index, generator)


class Paced(Line):
    def step(self, index: int, generator: torch.Generator) -> dict[str, float]:
        time.sleep(0.05)
        return super().step(index, generator)


def train(task: Line, folder: Path, *, steps: int = STEPS) -> loop.Progress:
    return loop.run(
        task, folder, steps=steps, seed=7, title="line", progress_bar=False, log_every=1
    )


def keep(name: str, tensors: dict[str, torch.Tensor], folder: Path) -> None:
    save_file(tensors, folder / f"{name}-{processes.rank()}.safetensors")


def together(folder: Path) -> None:
    """Run everything that ends by itself."""
    whole = Line(seed=processes.rank())  # begins with the main process's weights all the same
    train(whole, folder / "whole")
    keep("whole", whole.state(), folder)

    found: dict[str, int] = {}
    try:
        train(Interrupted(), folder / "resumed")
    except SystemExit as error:
        found["exit"] = int(str(error.code))
    resumed = Line(seed=99)
    found["step"] = train(resumed, folder / "resumed").step
    found["drawn"] = len(resumed.draws)
    keep("resumed", resumed.state(), folder)

    try:
        train(Line(losses={2: float("nan")} if processes.rank() else None), folder / "diverged")
    except TrainingDiverged as error:
        found["diverged"] = error.step
    (folder / f"found-{processes.rank()}.json").write_text(json.dumps(found))

    teacher = teachers.load(folder / "teacher", device="cpu")
    keys_at_once = pairs.keys

    def keys(catalogue: Catalogue) -> list[str]:
        if processes.is_main():
            time.sleep(1)  # the other could have made its pairs by now
        return keys_at_once(catalogue)

    pairs.keys = keys
    pairs.generate(
        PAIRS,
        teacher=teacher,
        catalogue=catalogue(teacher),
        detector=None,
        folder=folder / "pairs",
        store=folder / "pairs",
    )


def catalogue(teacher: Teacher) -> Catalogue:
    embeds = torch.randn(3, 77, 32, generator=torch.Generator().manual_seed(3)).half()
    texts = ("red cube", "blue cube", "green cube")
    return Catalogue(("a", "b", "c"), texts, embeds, teacher.manifest.encoder_fingerprint)


def stages(folder: Path) -> None:
    """Run every stage that trains; the state of each process after a stage is kept under the stage's name."""
    teacher = teachers.load(folder / "teacher", device="cpu")
    if processes.is_main():
        catalogues.write(catalogue(teacher), folder / "catalogue")
    processes.barrier()
    train_alone = loop.run

    def keeping(task: Task, place: Path, **options: Any) -> Progress:
        progress = train_alone(task, place, **options)
        state = {
            f"{name}.{key}": value.clone().contiguous()
            for name, module in task.modules.items()
            for key, value in module.state_dict().items()
        }
        keep(place.name.rpartition("-")[0], state, folder)
        return progress

    loop.run = keeping
    recipe = overrides.changed(recipes.named("starter-2step"), overrides.parse(SMALL))
    chain = Chain(recipe, Inputs(folder / "teacher", folder / "catalogue"), name="together")
    chain.build(folder / "built", only=["quantise"], progress_bar=False)


def until_stopped(folder: Path) -> None:
    task = Paced()
    train(task, folder, steps=60)
    keep("paced", task.state(), folder)


if __name__ == "__main__":
    name, place = sys.argv[1:]
    {"together": together, "stages": stages, "until_stopped": until_stopped}[name](Path(place))
