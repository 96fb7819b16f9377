"""Costs of a candidate before any training: bytes of its release, time and memory of one picture in the engine.

None of them depends on the values of the weights, so an untrained student is measured: written as a release and loaded
by the engine on the named device, in a process of its own.
"""

import tempfile
from dataclasses import asdict, replace
from pathlib import Path

import torch

from distillation.design.candidates import Costs
from distillation.design.limits import Limits
from distillation.evaluation import latency
from distillation.evaluation.latency import SpeedRecipe
from distillation.pipeline.recipes import INT8, Recipe
from distillation.trainers import decoder as decoders
from distillation.trainers import student as students
from distillation.trainers.catalogue import Catalogue
from distillation.trainers.teacher import Teacher
from distillation.training.errors import RecipeRefused
from generation.engine import bundle
from generation.engine import device as devices
from generation.engine import release as releases
from generation.engine.errors import DeviceUnavailable

CALLS = 12  # timed pictures


def check_device(name: str) -> None:
    """Raise RecipeRefused, which lists the devices of this machine, if the named one is not among them."""
    try:
        devices.choose(name)
    except DeviceUnavailable as error:
        raise RecipeRefused(
            f"time: this machine has no device {name!r}. It has {', '.join(present())}. Name one of them, or run the "
            "design on a machine with that device."
        ) from error


def present() -> list[str]:
    """Return the names of this machine's devices."""
    cuda = torch.cuda.device_count() if torch.cuda.is_available() else 0
    found = ["cpu", *(f"cuda:{number}" for number in range(cuda))]
    return [*found, "mps"] if torch.backends.mps.is_available() else found


def measure(
    recipe: Recipe,
    *,
    teacher: Teacher,
    catalogue: Catalogue,
    limits: Limits,
    device: str,
    runtime: str,
) -> Costs:
    """Return the costs of the recipe's student; only the size if that exceeds its limit.

    Raises RecipeRefused and SpeedNotMeasured.
    """
    if recipe.decoder is None:
        raise RecipeRefused("decoder is left out, so no decoder can be measured. Set it.")
    with tempfile.TemporaryDirectory(prefix="retort-design-") as temporary:
        folder = Path(temporary) / "untrained"
        unet = students.make(teacher, recipe.student)
        decoder = decoders.build(recipe.decoder, latent_channels=teacher.latent_shape[0])
        bundle.write(
            folder,
            unet=unet.to("cpu"),
            decoder=decoder,
            scheduler_config=teacher.scheduler_config,
            timesteps=recipe.timesteps,
            name="untrained",
            teacher=teacher.manifest,
            slugs=catalogue.slugs,
            texts=catalogue.texts,
            prompt_embeds=catalogue.prompt_embeds,
            recipe=asdict(recipe),
            code_revision="",
            is_quantised=recipe.weights == INT8,
        )
        del unet, decoder  # the engine loads its own
        return of_release(
            folder, catalogue=catalogue, limits=limits, device=device, runtime=runtime
        )


def of_release(
    folder: Path, *, catalogue: Catalogue, limits: Limits, device: str, runtime: str
) -> Costs:
    """Return the costs of a release; only the size if that exceeds its limit. Raises SpeedNotMeasured."""
    costs = Costs(sum(latency.bytes_by_component(releases.read(folder)).values()))
    if not costs.are_within(limits):
        return costs
    recipe = SpeedRecipe(calls=CALLS, batches=(), device=device)
    speed = latency.measure(folder, catalogue, recipe, runtime=runtime)
    on_device = speed.memory.device_peak
    return replace(
        costs,
        time=speed.seconds["total"].median,
        memory=on_device or speed.memory.peak,
        device=speed.device,
    )
