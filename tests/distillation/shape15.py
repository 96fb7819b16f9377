"""One slice of every stage at Stable Diffusion 1.5's true shape, with random weights: what fits, in how much memory.

    python -m tests.distillation.shape15 [--out DIR]

Layout, bytes and memory are real, no picture means anything. Each part runs in a process of its own, so that its peak
of memory is its own; what is finished stays in DIR, and the same command goes on from there. Minutes on idle cores, up
to LIMIT of memory and 20 GB of disk.
"""

import argparse
import gc
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTiny
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from PIL import Image
from safetensors.torch import save_file
from transformers import CLIPTextConfig
from transformers.models.clip.modeling_clip import CLIPTextModel

from distillation.students import cuts
from distillation.trainers import (
    catalogue,
    decoder,
    matching,
    networks,
    pairs,
    quantise,
    regression,
    structure,
)
from distillation.trainers import teacher as teachers
from distillation.trainers.catalogue import Catalogue
from distillation.trainers.pairs import Pairs
from distillation.trainers.recipes import RECIPES
from generation.engine import (
    bundle,
    embeddings,
    folding,
    importing,
    pipeline,
    quantization,
    release,
)
from generation.engine.importing import Options
from generation.engine.request import GenerationRequest
from tests.tiny import make_sd15_folder

GIB = 2**30
LIMIT = 22 * GIB  # of one part; beyond it torch cannot allocate, and other programs live on
RECIPE = RECIPES["sd15-tiny-1step"]
VARIANTS = 200
UNET: dict[str, Any] = {"sample_size": 64, "cross_attention_dim": 768}  # else diffusers' defaults
VAE: dict[str, Any] = {
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
    "sample_size": 512,
}
TEXT: dict[str, Any] = {
    "vocab_size": 49_408,
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "projection_dim": 768,
}
Shapes = dict[str, torch.Size]


# --- the teacher ----------------------------------------------------------------------------------
def networks_of_sd15(toy: Mapping[str, Any]) -> dict[str, tuple[Any, str]]:
    """Component → (the network on the meta device, the name of its file). toy: a text encoder's configuration."""
    with torch.device("meta"):
        return {
            "unet": (UNet2DConditionModel(**UNET), "diffusion_pytorch_model"),
            "vae": (AutoencoderKL(**VAE), "diffusion_pytorch_model"),
            "text_encoder": (CLIPTextModel(CLIPTextConfig(**{**toy, **TEXT})), "model"),
        }


def make_folder(target: Path) -> Path:
    """A diffusers folder of the layout of Stable Diffusion 1.5 in fp16, 2.1 GB, with a toy vocabulary."""
    make_sd15_folder(target, fp16=False)
    toy = json.loads((target / "text_encoder/config.json").read_text())
    for seed, (name, (network, file)) in enumerate(networks_of_sd15(toy).items()):
        for old in (target / name).iterdir():
            old.unlink()
        if name == "text_encoder":
            network.config.save_pretrained(target / name)
        else:
            network.save_config(target / name)
        shapes = {key: value.shape for key, value in network.state_dict().items()}
        save_file(
            random_weights(shapes, seed), target / name / f"{file}.safetensors", {"format": "pt"}
        )
        gc.collect()
    return target


def random_weights(shapes: Mapping[str, torch.Size], seed: int) -> dict[str, torch.Tensor]:
    """fp16: of norms ones, of biases zeros, else normal as large as keeps a layer's output the size of its input.

    In place of each layer's own initialisation, which takes a minute for so many.
    """
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for name, shape in shapes.items():
        if len(shape) > 1:
            deviation = shape[1:].numel() ** -0.5
            values = torch.randn(shape, generator=generator).mul_(deviation).half()
        elif name.endswith("weight"):
            values = torch.ones(shape, dtype=torch.float16)
        else:
            values = torch.zeros(shape, dtype=torch.float16)
        weights[name] = values
    return weights


def make_teacher(target: Path, *, is_toy: bool = False) -> None:
    """Its release in the new folder. is_toy: the same with few channels, to try the rest in seconds."""
    with tempfile.TemporaryDirectory(prefix=".checkpoint-", dir=target.parent) as temporary:
        source = Path(temporary) / "sd15"
        (make_sd15_folder if is_toy else make_folder)(source)
        importing.import_folder(
            source, target, name="sd15-shape", options=Options(steps=50, guidance_scale=7.5)
        )


# --- how large the bundle becomes -----------------------------------------------------------------
def bundle_bytes(
    student_config: Mapping[str, Any],
    *,
    steps: int,
    tiny: AutoencoderTiny,
    prompts: int,
    shape: tuple[int, int],
) -> dict[str, int]:
    """Bytes of the tensors by part: weights int8 with an fp32 scale per output channel, all else fp16."""
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
    """What the parts have in common. Each leaves what the next needs in a folder of its own name."""

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
            shard=1,
        )
        pairs.generate(
            recipe,
            teacher=self._teacher(),
            catalogue=self._catalogue(),
            detector=None,
            folder=self.out / "pairs",
            progress_bar=not self.is_toy,
        )

    def decoder(self) -> None:
        recipe = replace(RECIPE.decoder, steps=1, batch=1, warmup=0, validated=1)
        decoder.train(
            recipe,
            teacher=self._teacher(),
            pairs=self._pairs(),
            folder=self.out / "decoder",
            progress_bar=False,
        )

    def structure(self) -> None:
        structure.train(
            replace(RECIPE.structure, steps=1, batch=1, warmup=0),
            teacher=self._teacher(),
            student_recipe=RECIPE.student,
            pairs=self._pairs(),
            catalogue=self._catalogue(),
            folder=self.out / "structure",
            progress_bar=False,
        )

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
            adversarial=replace(RECIPE.matching.adversarial, learn_after=0, gan_after=0),
        )
        options: dict[str, Any] = {}
        if recipe.fake_score == "student":
            options["structure"] = self._student("structure")
        self._tune(matching.train, recipe, "matching", "regression", **options)

    def quantise(self) -> None:
        recipe = replace(RECIPE.quantise, steps=1, batch=1, warmup=0)
        with _fewer_seeds():
            self._tune(quantise.train, recipe, "quantise", "matching")

    def bundle(self) -> None:
        known = catalogue.read(self.out / "catalogue")
        teacher = self.out / "teacher"
        bundle.write(
            self.out / "bundle",
            unet=self._student("quantise"),
            decoder=self._decoder(),
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

    # --- what they need -----------------------------------------------------------------------------
    def _teacher(self) -> teachers.Teacher:
        return teachers.load(self.out / "teacher", device="cpu")

    def _catalogue(self) -> Catalogue:
        return catalogue.read(self.out / "one")

    def _pairs(self) -> Pairs:
        return pairs.read(self.out / "pairs", "train")

    def _student(self, stage: str) -> UNet2DConditionModel:
        return networks.load(UNet2DConditionModel, self.out / stage / "unet")

    def _decoder(self) -> AutoencoderTiny:
        return networks.load(AutoencoderTiny, self.out / "decoder" / "vae")

    def _tune(
        self, train: Callable[..., Any], recipe: Any, name: str, before: str, **options: Any
    ) -> None:
        train(
            recipe,
            teacher=self._teacher(),
            student=self._student(before),
            decoder=self._decoder(),
            pairs=self._pairs(),
            catalogue=self._catalogue(),
            timesteps=RECIPE.timesteps,
            folder=self.out / name,
            progress_bar=False,
            **options,
        )


NAMES = (
    "teacher",
    "pairs",
    "decoder",
    "structure",
    "regression",
    "matching",
    "quantise",
    "bundle",
    "picture",
)


@contextmanager
def _fewer_seeds() -> Iterator[None]:
    """The images that quantising is measured by would take an hour."""
    before = quantise.SEEDS, quantise.MEASURED_BATCH
    quantise.SEEDS, quantise.MEASURED_BATCH = 2, 1
    try:
        yield
    finally:
        quantise.SEEDS, quantise.MEASURED_BATCH = before


# --- the command ----------------------------------------------------------------------------------
def run_one(parts: Parts, name: str) -> None:
    """Do the part in this process, and write what it took to NAME.json."""
    resource.setrlimit(resource.RLIMIT_DATA, (LIMIT, LIMIT))
    started = time.perf_counter()
    getattr(parts, name)()
    measured = {
        "seconds": round(time.perf_counter() - started, 1),
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }
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
    config = cuts.student_config(
        UNet2DConditionModel.load_config(out / "teacher/unet"),
        cuts.cut_named(RECIPE.student.cut or "tiny"),
    )
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
