"""Tables of the starter's stages, at full and at toy size, and the folders of the published results.

scenes, captions → detector, clip, vae → latents → teacher, weak_teacher → guided; latents → decoder; examiner; all →
pack. All parameters that change a result are in a recipe.
"""

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from distillation.detector.network import DetectorConfig
from distillation.detector_training import classifier
from distillation.detector_training.classifier import DetectorRecipe
from distillation.resumable.stages import Context, Stage, StageError
from distillation.starter import captions as grammar
from distillation.starter import (
    clip,
    decoder,
    examiner,
    guided,
    latents,
    pack,
    photographs,
    rendering,
    scenes,
    teacher,
    tokenizer,
    vae,
)
from distillation.starter.clip import ClipRecipe
from distillation.starter.decoder import DecoderRecipe
from distillation.starter.examiner import ExaminerRecipe
from distillation.starter.growing import EncoderRecipe
from distillation.starter.guided import GuidedRecipe
from distillation.starter.latents import LatentsRecipe
from distillation.starter.pack import PackRecipe
from distillation.starter.teacher import TeacherRecipe
from distillation.starter.vae import VaeRecipe
from distillation.starter.words import ATTRIBUTES, BITS, COMBINATIONS
from distillation.trainers.patches import PatchesRecipe

EXAMINER = "examiner"
PACK = "pack"  # stage whose result is published


# --- recipes of single stages ---------------------------------------------------------------------
def texts() -> list[str]:
    """Return all captions: of combinations and of single words."""
    found = [text for combination in COMBINATIONS for text in grammar.captions(combination)]
    found += [
        text
        for attribute, words in ATTRIBUTES.items()
        for word in words
        for text in grammar.phrases(attribute, word)
    ]
    return found


def _digest() -> str:
    return hashlib.sha256("\n".join(texts()).encode()).hexdigest()


@dataclass(frozen=True)
class CaptionsRecipe:
    """sha256: hash of all captions; when they change, the vocabulary and all networks trained on it are built again."""

    sha256: str = field(default_factory=_digest)


@dataclass(frozen=True)
class DetectorStageRecipe:
    training: DetectorRecipe = field(default_factory=DetectorRecipe)
    network: DetectorConfig = field(
        default_factory=lambda: DetectorConfig(
            bits=BITS, groups=tuple(len(words) for words in ATTRIBUTES.values())
        )
    )


# --- build functions ------------------------------------------------------------------------------
def _scenes(context: Context) -> None:
    # The test splits are rendered by the report.
    rendering.build(
        context.folder,
        context.recipe,
        splits=("train", "validation"),
        progress_bar=context.progress_bar,
    )


def _photographs(context: Context, split: str, size: int) -> photographs.Photographs:
    return photographs.read(context.needs["scenes"], split).scaled(size)


def _captions(context: Context) -> None:
    grammar.write_catalogue(context.folder / "catalogue.csv")
    tokenizer.train(context.folder / "tokenizer", texts())


def _detector(context: Context) -> None:
    size = context.recipe.network.image_size
    train = _photographs(context, "train", size)
    validation = _photographs(context, "validation", size)
    classifier.train(
        context.recipe.training,
        images=train.images,
        bits=train.bits,
        validation_images=validation.images,
        validation_bits=validation.bits,
        config=context.recipe.network,
        folder=context.folder,
        progress_bar=context.progress_bar,
    )


def _clip(context: Context) -> None:
    clip.train(
        context.recipe,
        photographs=_photographs(context, "train", context.recipe.image_size),
        tokenizer_folder=context.needs["captions"] / "tokenizer",
        folder=context.folder,
        progress_bar=context.progress_bar,
    )


def _vae(context: Context) -> None:
    vae.train(
        context.recipe,
        photographs=_photographs(context, "train", context.recipe.size),
        validation=_photographs(context, "validation", context.recipe.size),
        folder=context.folder,
        progress_bar=context.progress_bar,
    )


def _latents(context: Context) -> None:
    for split, recipe in (("train", context.recipe), ("validation", latents.WHOLE)):
        latents.encode(
            recipe,
            photographs=photographs.read(context.needs["scenes"], split),
            vae_folder=context.needs["vae"] / "vae",
            folder=context.folder,
            split=split,
            progress_bar=context.progress_bar,
        )


def _teacher(context: Context) -> None:
    teacher.train(
        context.recipe,
        latents=latents.read(context.needs["latents"], "train"),
        validation=latents.read(context.needs["latents"], "validation"),
        clip_folder=context.needs["clip"] / "clip",
        tokenizer_folder=context.needs["captions"] / "tokenizer",
        folder=context.folder,
        progress_bar=context.progress_bar,
    )


def _guided(context: Context) -> None:
    guided.train(
        context.recipe,
        latents=latents.read(context.needs["latents"], "train"),
        validation=latents.read(context.needs["latents"], "validation"),
        clip_folder=context.needs["clip"] / "clip",
        tokenizer_folder=context.needs["captions"] / "tokenizer",
        teacher=context.needs["teacher"] / "unet",
        weak=context.needs["weak_teacher"] / "unet",
        folder=context.folder,
        progress_bar=context.progress_bar,
    )


def _decoder(context: Context) -> None:
    decoder.train(
        context.recipe,
        vae_folder=context.needs["vae"] / "vae",
        photographs=photographs.read(context.needs["scenes"], "train"),
        latents=latents.read(context.needs["latents"], "train"),
        validation=photographs.read(context.needs["scenes"], "validation"),
        validation_latents=latents.read(context.needs["latents"], "validation"),
        folder=context.folder,
        progress_bar=context.progress_bar,
    )


def _examiner(context: Context) -> None:
    recipe = context.recipe
    rendered = context.folder / "photographs"
    rendering.render_all(
        rendered,
        {EXAMINER: examiner.shots(recipe.photographs)},
        recipe.photograph,
        progress_bar=context.progress_bar,
    )
    examiner.train(
        recipe,
        photographs=photographs.read(rendered, EXAMINER),
        folder=context.folder,
        progress_bar=context.progress_bar,
    )


def _pack(context: Context) -> None:
    folders, needs = packed(context.folder), context.needs
    try:
        pack.write(
            folders.teacher,
            unet=needs["guided"] / "unet",
            vae=needs["decoder"] / "vae",
            clip=needs["clip"] / "clip",
            tokenizer=needs["captions"] / "tokenizer",
            scheduler=needs["guided"] / "scheduler",
            guidance_scale=context.recipe.guidance_scale,
            steps=context.recipe.steps,
            name=context.recipe.name,
        )
        pack.write_judges(
            folders.judges,
            detector=needs["detector"] / "detector",
            clip=needs["clip"] / "clip",
            examiner=needs[EXAMINER] / "examiner",
        )
        pack.write_history(folders.history, needs)
    except pack.PackRefused as error:
        raise StageError(str(error)) from error


PARTS_OF_PACK = (
    "scenes", "captions", "detector", "clip", "vae", "latents", "weak_teacher", "teacher", "guided", "decoder",
    EXAMINER,
)  # fmt: skip


# --- the tables -----------------------------------------------------------------------------------
@dataclass(frozen=True)
class Recipes:
    """The recipe of each stage; fields are named by the stages."""

    scenes: rendering.Recipe = field(default_factory=rendering.Recipe)
    captions: CaptionsRecipe = field(default_factory=CaptionsRecipe)
    detector: DetectorStageRecipe = field(default_factory=DetectorStageRecipe)
    clip: ClipRecipe = field(default_factory=ClipRecipe)
    vae: VaeRecipe = field(default_factory=VaeRecipe)
    latents: LatentsRecipe = field(default_factory=LatentsRecipe)
    weak_teacher: TeacherRecipe = field(default_factory=lambda: TeacherRecipe(steps=7200))
    teacher: TeacherRecipe = field(default_factory=TeacherRecipe)
    guided: GuidedRecipe = field(default_factory=GuidedRecipe)
    decoder: DecoderRecipe = field(default_factory=DecoderRecipe)
    examiner: ExaminerRecipe = field(default_factory=ExaminerRecipe)
    pack: PackRecipe = field(default_factory=PackRecipe)


def table(recipes: Recipes) -> tuple[Stage, ...]:
    """Return the stages in build order. Increase a stage's revision when a change of its code changes the result."""
    return (
        Stage("scenes", recipes.scenes, (), _scenes),
        Stage("captions", recipes.captions, (), _captions),
        Stage("detector", recipes.detector, ("scenes",), _detector),
        Stage("clip", recipes.clip, ("scenes", "captions"), _clip),
        Stage("vae", recipes.vae, ("scenes",), _vae),
        Stage("latents", recipes.latents, ("scenes", "vae"), _latents),
        Stage("weak_teacher", recipes.weak_teacher, ("latents", "clip", "captions"), _teacher),
        Stage("teacher", recipes.teacher, ("latents", "clip", "captions"), _teacher),
        Stage(
            "guided",
            recipes.guided,
            ("latents", "clip", "captions", "weak_teacher", "teacher"),
            _guided,
        ),
        Stage("decoder", recipes.decoder, ("scenes", "vae", "latents"), _decoder),
        Stage(EXAMINER, recipes.examiner, (), _examiner),
        Stage(PACK, recipes.pack, PARTS_OF_PACK, _pack),
    )


FULL_RECIPES = Recipes()

_SMALL: dict[str, Any] = {
    "channels": (32, 32),
    "attends": (False, True),
    "layers": 1,
    "batch": 8,
    "warmup": 2,
    "validate_every": 10,
    "validated": 8,
}
# For tests of the code: all stages in a few minutes, too little training for recognisable pictures.
QUICK_RECIPES = Recipes(
    scenes=rendering.Recipe(
        train=64,
        validation=64,  # contains each word, as the choice of thresholds requires
        test=16,
        test_held_out=16,
        photograph=scenes.Recipe(size=128, samples=1, path_depth=5),
    ),
    detector=DetectorStageRecipe(
        training=DetectorRecipe(steps=20, batch=16, warmup=2),
        network=DetectorConfig(
            bits=BITS,
            groups=tuple(len(words) for words in ATTRIBUTES.values()),
            image_size=64,
            widths=(16, 32),
            depths=(0, 1),
        ),
    ),
    clip=ClipRecipe(
        image_size=64,
        image_width=48,
        image_layers=1,
        image_heads=2,
        image_hidden=96,
        text_width=32,
        text_layers=1,
        text_heads=2,
        text_hidden=64,
        projection=32,
        steps=10,
        batch=16,
        warmup=2,
    ),
    vae=VaeRecipe(
        size=64,
        channels=(16, 16, 16, 16),
        latent_channels=4,
        norm_groups=8,
        crop=32,
        crop_steps=10,
        crop_batch=4,
        whole_steps=5,
        whole_batch=2,
        warmup=2,
        validate_every=5,
        validated=4,
    ),
    latents=LatentsRecipe(zooms=0),
    weak_teacher=TeacherRecipe(**_SMALL, steps=10),
    teacher=TeacherRecipe(**_SMALL, steps=20),
    guided=GuidedRecipe(**_SMALL, steps=10),
    decoder=DecoderRecipe(
        steps=10,
        batch=2,
        crop=64,
        warmup=2,
        patches=PatchesRecipe(width=8, crop=64, start_step=2, warmup_steps=2),
        encoder=EncoderRecipe(steps=5, batch=2, warmup=2),
        validate_every=5,
        validated=4,
    ),
    examiner=ExaminerRecipe(
        photographs=16,
        photograph=scenes.Recipe(size=64, samples=1, path_depth=5),
        image_size=64,
        widths=(16, 32),
        depths=(1, 1),
        steps=5,
        batch=8,
        warmup=1,
    ),
    pack=PackRecipe(name="starter-toy", steps=4),
)

STAGES = table(FULL_RECIPES)
QUICK = table(QUICK_RECIPES)


# --- publishing -----------------------------------------------------------------------------------
@dataclass(frozen=True)
class Packed:
    """Folders written by the stage `pack`."""

    teacher: Path
    judges: Path
    history: Path


def packed(folder: Path) -> Packed:
    """Return the folders in the folder of the stage `pack`."""
    return Packed(folder / "teacher", folder / "judges", folder / "history")


_ROOT = Path(__file__).resolve().parents[2]
# Committed folders: the default teacher of `make run`, the judges and the history.
PUBLISHED = Packed(
    teacher=_ROOT / "generation" / "starter" / "teacher-2",
    judges=_ROOT / "distillation" / "starter" / "judges",
    history=_ROOT / "distillation" / "starter" / "history",
)
CATALOGUE = _ROOT / "generation" / "starter" / "catalogue.csv"


def publish(folder: Path, *, target: Packed = PUBLISHED, catalogue: Path = CATALOGUE) -> None:
    """Replace the committed folders by those of the stage `pack`, each atomically, and write the catalogue."""
    built = packed(folder)
    for source, destination in (
        (built.judges, target.judges),
        (built.history, target.history),
        (built.teacher, target.teacher),
    ):
        pack.publish(source, destination)
    grammar.write_catalogue(catalogue)
