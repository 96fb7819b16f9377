"""Training of a version of the detector from a labelled folder: its networks and its figures."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from distillation.detector import network, segmentation
from distillation.detector import version as versions
from distillation.detector.errors import LabelsUnusable
from distillation.detector.judge import Judge, described, load
from distillation.detector.labels import Labelled, Vocabulary
from distillation.detector.network import Detector, DetectorConfig
from distillation.detector.segmentation import SegmentationConfig, UNet
from distillation.detector_training import degradations
from distillation.detector_training import quality as qualities
from distillation.detector_training import segmentation as segmenting
from distillation.detector_training.augmentation import Augmentation
from distillation.detector_training.quality import QualityRecipe
from distillation.detector_training.segmentation import SegmentationRecipe
from distillation.evaluation import detector_accuracy
from distillation.resumable import atomic
from distillation.training import loop

HELD_OUT = 0.2  # share of the pictures by which the bits are calibrated
MIN_MASKS = 20  # with fewer no segmentation is trained


@dataclass(frozen=True)
class JudgeRecipe:
    """false_accepts: share of the pictures without a bit that the detector may accept. margin: by how much another
    bit of a group may be more likely than the wanted one (for the starter, 0.3 lets one wrong word in a hundred pass,
    and loses a third of the good pictures that 0 would lose).

    image_size: of the pictures, and of the classifier (unless it is kept) and the quality network: blur that a smaller
    copy does not show is not found. masks: a smaller copy is enough for the area of an object.

    widths, depths: of the classifier; None = those of the detector that it starts from, else the default.
    quality_widths, quality_depths: of the quality network, for which a small receptive field is enough.
    """

    image_size: int = 128
    false_accepts: float = 0.02
    margin: float = 0.3
    classifier: QualityRecipe = field(
        default_factory=lambda: QualityRecipe(
            spoilt=0.0, worn=0.0, sound=Augmentation(), finished=0.0
        )
    )
    quality: QualityRecipe = field(
        default_factory=lambda: QualityRecipe(steps=1000, spoilt=0.5, worn=0.0)
    )
    segmentation: SegmentationRecipe = field(default_factory=SegmentationRecipe)
    masks: SegmentationConfig = field(default_factory=SegmentationConfig)
    widths: tuple[int, ...] | None = None
    depths: tuple[int, ...] | None = None
    quality_widths: tuple[int, ...] = (16, 32, 48)
    quality_depths: tuple[int, ...] = (0, 1, 1)

    def __post_init__(self) -> None:
        if not 0 <= self.false_accepts < 0.5:
            raise ValueError(f"A false-accept rate is from 0 to below ½, not {self.false_accepts}.")
        if not 0 <= self.margin < 1:
            raise ValueError(f"A margin is from 0 to below 1, not {self.margin}.")


def make(
    recipe: JudgeRecipe,
    labelled: Labelled,
    *,
    name: str,
    folder: Path,
    begins_with: Path | None = None,
    keeps: Path | None = None,
    tested: Labelled | None = None,
    progress_bar: bool = True,
) -> Judge:
    """Train the version in folder/version, resuming in `folder`, and load it. Raises LabelsUnusable, DetectorUnusable.

    Pictures with a defect are trained on only if `lacks` names the missing bits. begins_with: detector whose weights
    initialise the classifier; keeps: detector whose classifier is used unchanged. tested: the test set of the
    version's figures; None = the held-out pictures, on which it was also calibrated.
    """
    folder = Path(folder)
    target = folder / "version"
    if (target / versions.MANIFEST).is_file():
        return load(target)
    usable = labelled.only([row for row in labelled.rows if not row.defect or row.lacks])
    parts = usable.split(HELD_OUT)
    if len(parts[0]) < 2 or not len(parts[1]):
        raise LabelsUnusable(
            f"{labelled.folder} has {len(usable)} usable pictures, which are too few for a training and a calibration "
            "set."
        )
    if keeps is not None:
        classifier = _kept(keeps, labelled, recipe.image_size)
    else:
        classifier = _classifier(
            recipe, parts, begins_with=begins_with, folder=folder, progress_bar=progress_bar
        )
    quality = _quality(recipe, parts, folder=folder, progress_bar=progress_bar)
    unet = _segmentation(recipe, parts, folder=folder, progress_bar=progress_bar)
    figures: dict[str, Any] = {
        "recipe": json.loads(json.dumps(asdict(recipe))),
        "labels": labelled.digest,
        "pictures": {"trained": len(parts[0]), "held_out": len(parts[1])},
        "seconds": _seconds(folder),  # of each training, interruptions left out
        "torch": torch.__version__,
    }
    required = labelled.vocabulary.required + degradations.BITS
    required += segmentation.BITS if unet is not None else ()

    def put(place: Path) -> Judge:
        write(
            place,
            classifier,
            quality,
            unet,
            name=name,
            required=required,
            image_size=recipe.image_size,
            margin=recipe.margin,
            figures=figures,
        )
        return load(place)

    of = parts[1] if tested is None else tested
    found = detector_accuracy.run(put(folder / "untested"), of, progress_bar=progress_bar)
    figures["test"] = {"is_held_out": tested is None, "labels": of.digest, **found.to_dict()}
    return put(target)


def write(
    target: Path,
    classifier: Detector,
    quality: Detector,
    unet: UNet | None,
    *,
    name: str,
    required: tuple[str, ...],
    image_size: int,
    margin: float,
    figures: Mapping[str, Any],
) -> None:
    """Write a version's folder atomically; weights in half precision, which hardly changes a probability.

    image_size: of the pictures that it judges, the largest of its networks.
    """

    def fill(place: Path) -> None:
        network.save(classifier, place, dtype=torch.float16)
        network.save(quality, place / versions.QUALITY, dtype=torch.float16)
        if unet is not None:
            segmentation.save(unet, place / versions.SEGMENTATION, dtype=torch.float16)
        bits, groups = described(classifier, quality, unet)
        versions.write(
            place,
            name=name,
            bits=bits,
            groups=groups,
            required=required,
            image_size=image_size,
            margin=margin,
            figures=figures,
        )

    atomic.make_folder(target, fill)


def _segmentation(
    recipe: JudgeRecipe, parts: tuple[Labelled, Labelled], *, folder: Path, progress_bar: bool
) -> UNet | None:
    masked = [part.only([row for row in part.rows if row.mask]) for part in parts]
    if len(masked[0]) < MIN_MASKS or not len(masked[1]):
        return None
    size = recipe.masks.image_size
    (images, masks), (held_images, held_masks) = (
        (part.images(size), part.masks(size)) for part in masked
    )
    return segmenting.train(
        recipe.segmentation,
        images=images,
        masks=masks,
        validation_images=held_images,
        validation_masks=held_masks,
        config=recipe.masks,
        false_accepts=recipe.false_accepts,
        folder=folder / versions.SEGMENTATION,
        progress_bar=progress_bar,
    )


def _classifier(
    recipe: JudgeRecipe,
    parts: tuple[Labelled, Labelled],
    *,
    begins_with: Path | None,
    folder: Path,
    progress_bar: bool,
) -> Detector:
    beginning = None if begins_with is None else network.load(begins_with)
    vocabulary, widths, depths = parts[0].vocabulary, recipe.widths, recipe.depths
    if beginning is not None:
        widths = widths or beginning.config.widths
        depths = depths or beginning.config.depths
    bare = DetectorConfig(vocabulary.bits, vocabulary.sizes, recipe.image_size)
    return _learned(
        recipe.classifier,
        parts,
        vocabulary,
        replace(bare, widths=widths or bare.widths, depths=depths or bare.depths),
        begins_with=beginning,
        false_accepts=recipe.false_accepts,
        folder=folder / "classifier",
        progress_bar=progress_bar,
    )


def _quality(
    recipe: JudgeRecipe, parts: tuple[Labelled, Labelled], *, folder: Path, progress_bar: bool
) -> Detector:
    vocabulary = Vocabulary(()).extended(degradations.BITS)
    config = DetectorConfig(
        bits=vocabulary.bits,
        groups=vocabulary.sizes,
        image_size=recipe.image_size,
        widths=recipe.quality_widths,
        depths=recipe.quality_depths,
    )
    return _learned(
        recipe.quality,
        parts,
        vocabulary,
        config,
        begins_with=None,
        false_accepts=recipe.false_accepts,
        folder=folder / versions.QUALITY,
        progress_bar=progress_bar,
    )


def _learned(
    recipe: QualityRecipe,
    parts: tuple[Labelled, Labelled],
    vocabulary: Vocabulary,
    config: DetectorConfig,
    *,
    begins_with: Detector | None,
    false_accepts: float,
    folder: Path,
    progress_bar: bool,
) -> Detector:
    # A batch of pictures without a known bit would have no loss.
    trained, held = (part.knowing(vocabulary) for part in parts)
    try:
        return qualities.train(
            recipe,
            images=trained.images(config.image_size, progress_bar=progress_bar),
            bits=trained.truth(vocabulary),
            validation_images=held.images(config.image_size),
            validation_bits=held.truth(vocabulary),
            config=config,
            begins_with=begins_with,
            false_accepts=false_accepts,
            folder=folder,
            title=folder.name,
            progress_bar=progress_bar,
        )
    except ValueError as error:
        raise LabelsUnusable(f"{trained.folder}: {error}") from error


def _kept(keeps: Path, labelled: Labelled, image_size: int) -> Detector:
    classifier, vocabulary = network.load(keeps), labelled.vocabulary
    of = classifier.config
    if (of.bits, of.groups) != (vocabulary.bits, vocabulary.sizes) or of.image_size > image_size:
        raise LabelsUnusable(
            f"The classifier of {keeps} has other bits than {labelled.folder} needs, or is for larger pictures than "
            f"{image_size} pixels. Train one."
        )
    return classifier


def _seconds(folder: Path) -> dict[str, float]:
    found = {}
    for path in sorted(folder.glob(f"*/{loop.METRICS}")):
        found[path.parent.name] = json.loads(path.read_text("utf-8").splitlines()[-1])["seconds"]
    return found
