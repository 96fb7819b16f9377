"""One slice of every stage at Stable Diffusion 1.5's true shape, with random weights: what fits, in how much memory.

    python -m tests.distillation.shape15 [--out DIR]

Layout, bytes and memory are real, the pictures are noise. Each part runs in a separate process, so that its peak memory
is measured alone. Finished parts stay in DIR, and the same command continues from there. It takes minutes on idle
cores, up to LIMIT of memory and 20 GB of disk.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTiny
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from PIL import Image

from distillation.pipeline.recipes import RECIPES
from distillation.students import cuts
from distillation.students.unets import UNetShape
from distillation.trainers import (
    catalogue,
    decoder,
    joint,
    pairs,
    quantise,
    regression,
    structure,
)
from distillation.trainers import teacher as teachers
from distillation.trainers.catalogue import Catalogue
from distillation.trainers.dmd2 import trainer as dmd2
from distillation.trainers.inputs import StageInputs, TuningInputs
from distillation.training import networks
from generation.engine import bundle, folding, pipeline, quantization, release
from generation.engine.prompts import embeddings
from generation.engine.request import GenerationRequest
from tests.distillation.checkpoint15 import make_teacher

GIB = 2**30
LIMIT = (
    22 * GIB
)  # of one part; beyond it torch cannot allocate, so that other programs keep their memory
RECIPE = RECIPES["sd15-tiny-1step"]
VARIANTS = 200


# --- how large the bundle becomes -----------------------------------------------------------------
def bundle_bytes(
    student_config: Mapping[str, Any],
    *,
    steps: int,
    tiny: AutoencoderTiny,
    prompts: int,
    shape: tuple[int, int],
) -> dict[str, int]:
    """Return the bytes of the tensors by part: weights int8 with an fp32 scale per output channel, all else fp16."""
    unet = 0
    for name, size in folding.shapes(student_config, steps).items():
        is_int8 = quantization.covers(name, torch.empty(size, device="meta"))
        unet += size.numel() + 4 * size[0] if is_int8 else 2 * size.numel()
    kept = (value for name, value in tiny.state_dict().items() if name.startswith("decoder."))
    return {
        "unet": unet,
        "vae": sum(2 * value.numel() for value in kept),
        "prompt_embeds": 2 * prompts * shape[0] * shape[1],
    }


def folder_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


# --- one slice of each stage ----------------------------------------------------------------------
class Parts:
    """The parts. Each writes its output, which later ones need, to a folder of its name."""

    def __init__(self, out: Path, *, is_toy: bool = False) -> None:
        self.out, self.is_toy = out, is_toy

    def teacher(self) -> None:
        make_teacher(self.out / "teacher", is_toy=self.is_toy)
        manifest = release.read(self.out / "teacher")
        embeds = torch.randn(VARIANTS, *manifest.embedding_shape).half()
        whole = Catalogue(
            tuple(f"variant-{number}" for number in range(VARIANTS)),
            tuple(f"text {number}" for number in range(VARIANTS)),
            embeds,
            manifest.encoder_fingerprint,
        )
        catalogue.write(whole, self.out / "catalogue")
        one = replace(
            whole, slugs=whole.slugs[:1], texts=whole.texts[:1], prompt_embeds=embeds[:1].clone()
        )
        catalogue.write(one, self.out / "one")

    def pairs(self) -> None:
        recipe = replace(
            RECIPE.pairs,
            seeds_per_variant=3,
            held_out=0.34,
            num_inference_steps=2,
            path_timesteps=(499,),
            batch=1,
            written=1,
        )
        pairs.generate(
            recipe,
            teacher=self._teacher(),
            catalogue=self._catalogue(),
            detector=None,
            folder=self.out / "pairs",
            store=self.out / "pairs",
            progress_bar=not self.is_toy,
        )

    def decoder(self) -> None:
        recipe = replace(RECIPE.decoder, steps=1, batch=1, warmup=0, validated=1)
        decoder.train(recipe, self._inputs("decoder"))

    def structure(self) -> None:
        recipe = replace(
            RECIPE.structure,
            steps=1,
            batch=1,  # noised: there is no room for the other kinds of samples
            path_share=0.0,
            first_timestep_share=0.0,
            warmup=0,
        )
        structure.train(recipe, self._inputs("structure"), student_recipe=RECIPE.student)

    def regression(self) -> None:
        if RECIPE.regression is None:
            return
        recipe = replace(RECIPE.regression, steps=1, batch=1, warmup=0, watched=1)
        self._tune(regression.train, recipe, "regression", "structure")

    def matching(self) -> None:
        """An update of the fake score, of the heads and of the student, all terms on."""
        if RECIPE.matching is None or RECIPE.matching.adversarial is None:
            return
        recipe = replace(
            RECIPE.matching,
            steps=1,
            batch=1,
            critic_batch=1,
            critic_updates=1,
            paired=1,
            warmup=0,
            watched=1,
            student_after=0,
            adversarial=replace(RECIPE.matching.adversarial, learn_after=0, gan_after=0),
        )
        structure = self._student("structure") if recipe.needs_structure else None
        self._tune(dmd2.train, recipe, "matching", "regression", structure=structure)

    def joint(self) -> None:
        if RECIPE.joint is None:
            return
        recipe = replace(RECIPE.joint, steps=1, batch=1, warmup=0, watched=1)
        self._tune(joint.train, recipe, "joint", "matching")

    def quantise(self) -> None:
        recipe = replace(RECIPE.quantise, steps=1, batch=1, warmup=0, measured=2)
        self._tune(quantise.train, recipe, "quantise", "joint", drawn_by="joint")

    def bundle(self) -> None:
        known = catalogue.read(self.out / "catalogue")
        teacher = self.out / "teacher"
        bundle.write(
            self.out / "bundle",
            unet=self._student("quantise"),
            decoder=self._decoder("joint"),
            scheduler_config=json.loads((teacher / "scheduler/scheduler_config.json").read_text()),
            timesteps=RECIPE.timesteps,
            name=RECIPE.name,
            teacher=release.read(teacher),
            slugs=known.slugs,
            texts=known.texts,
            prompt_embeds=known.prompt_embeds,
            recipe=json.loads(json.dumps(asdict(RECIPE))),
            code_revision="",
        )

    def picture(self) -> None:
        """One picture by the engine, as a worker makes it."""
        loaded = pipeline.load(self.out / "bundle")
        known = catalogue.read(self.out / "catalogue")
        stored = embeddings.pack(known.prompt_embeds[7].numpy(), known.encoder_fingerprint)
        width, height = loaded.manifest.image_sizes[0]
        [result] = loaded.generate([GenerationRequest(stored, 1, width, height)])
        if result.pixels is None:
            raise RuntimeError(str(result.error))
        Image.fromarray(result.pixels).save(self.out / "picture.png")

    # --- inputs of the parts ------------------------------------------------------------------------
    def _teacher(self) -> teachers.Teacher:
        return teachers.load(self.out / "teacher", device="cpu")

    def _catalogue(self) -> Catalogue:
        return catalogue.read(self.out / "one")

    def _inputs(self, name: str) -> StageInputs:
        return StageInputs(
            teacher=self._teacher(),
            pairs=pairs.read(self.out / "pairs", "train"),
            catalogue=self._catalogue(),
            folder=self.out / name,
            progress_bar=False,
        )

    def _student(self, stage: str) -> UNet2DConditionModel:
        return networks.load(UNet2DConditionModel, self.out / stage / "unet")

    def _decoder(self, stage: str) -> AutoencoderTiny:
        return networks.load(AutoencoderTiny, self.out / stage / "vae")

    def _tune(
        self,
        train: Callable[..., Any],
        recipe: Any,
        name: str,
        before: str,
        *,
        drawn_by: str = "decoder",
        structure: UNet2DConditionModel | None = None,
    ) -> None:
        inputs = TuningInputs(
            **vars(self._inputs(name)),
            student=self._student(before),
            decoder=self._decoder(drawn_by),
            timesteps=RECIPE.timesteps,
            structure=structure,
        )
        train(recipe, inputs)


NAMES = (
    "teacher",
    "pairs",
    "decoder",
    "structure",
    "regression",
    "matching",
    "joint",
    "quantise",
    "bundle",
    "picture",
)


# --- the command ----------------------------------------------------------------------------------
def run_one(parts: Parts, name: str) -> None:
    """Run the part in this process, and write its seconds and peak memory to NAME.json."""
    resource.setrlimit(resource.RLIMIT_DATA, (LIMIT, LIMIT))
    started = time.perf_counter()
    getattr(parts, name)()
    measured = {
        "seconds": round(time.perf_counter() - started, 1),
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }
    (parts.out / name / "checkpoint.pt").unlink(missing_ok=True)  # up to 16 GB
    (parts.out / f"{name}.json").write_text(json.dumps(measured) + "\n")


def run_all(out: Path) -> int:
    print(f"{'part':12}{'seconds':>9}{'peak GiB':>10}", flush=True)
    for name in NAMES:
        report = out / f"{name}.json"
        if not report.exists():
            command = [sys.executable, "-m", __spec__.name, "--out", str(out), "--only", name]
            code = subprocess.run(command, check=False).returncode
            if code:
                print(f"{name} ended with {code}.", file=sys.stderr)
                return 1
        measured = json.loads(report.read_text())
        peak = measured["peak_bytes"] / GIB
        print(f"{name:12}{measured['seconds']:9.1f}{peak:10.2f}", flush=True)
    shape = UNetShape(UNet2DConditionModel.load_config(out / "teacher/unet"))
    config = cuts.student_shape(shape, cuts.cut_named(RECIPE.student.cut or "tiny")).config
    manifest = release.read(out / "teacher")
    expected = bundle_bytes(
        config,
        steps=len(RECIPE.timesteps),
        tiny=decoder.build(RECIPE.decoder, latent_channels=4),
        prompts=VARIANTS,
        shape=manifest.embedding_shape,
    )
    teacher = sum(
        path.stat().st_size * 2  # from fp16 to the fp32 that it is usually shipped in
        for path in (out / "teacher").rglob("*.safetensors")
    )
    size = folder_bytes(out / "bundle")
    print(f"\nbundle {size / 1e6:.1f} MB with {VARIANTS} prompt variants")
    print("  " + ", ".join(f"{name} {value / 1e6:.1f}" for name, value in expected.items()))
    print(f"teacher {teacher / 1e6:.0f} MB in fp32: {teacher / size:.1f} times as large")
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(prog=__spec__.name, description=__doc__)
    parser.add_argument("--out", type=Path, default=Path(tempfile.gettempdir()) / "retort-shape15")
    parser.add_argument("--only", choices=NAMES, help="one part, in this process")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    if options.only:
        run_one(Parts(options.out), options.only)
        return 0
    return run_all(options.out)


if __name__ == "__main__":
    sys.exit(main())
