import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers import CLIPTokenizer

from distillation.detector import network as detectors
from distillation.detector import segmentation
from distillation.detector.network import Detector, DetectorConfig
from distillation.detector.segmentation import SegmentationConfig, UNet
from distillation.image_metrics.distances import Interval
from distillation.starter import clip as clips
from distillation.starter import examiner as examiners
from distillation.starter import tokenizer
from distillation.starter.captions import captions, phrases
from distillation.starter.clip import ClipRecipe
from distillation.starter.examiner import ExaminerRecipe
from distillation.starter.photographs import Photographs
from distillation.starter.report import gallery, measurement
from distillation.starter.report import writer as report
from distillation.starter.report.history import History
from distillation.starter.report.measurement import Judges, Recipe, Splits
from distillation.starter.report.metrics import Sharpness, SweepPoint
from distillation.starter.report.sampler import TeacherSampler
from distillation.starter.words import (
    ATTRIBUTES,
    BITS,
    COMBINATIONS,
    HELD_OUT,
    TRAINED,
    Combination,
)
from generation.engine.proportions import Share
from tests import tiny

ROOT = Path(__file__).parents[4]
SIZE = 64  # of the tiny release


@pytest.fixture(scope="module")
def pack(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pack") / "release"
    tiny.make_tiny_release(path)
    return path


@pytest.fixture(scope="module")
def judges(tmp_path_factory: pytest.TempPathFactory) -> Judges:
    folder = tmp_path_factory.mktemp("judges")
    torch.manual_seed(0)
    config = DetectorConfig(BITS, (8, 8, 4, 3), image_size=SIZE, widths=(4, 8), depths=(0, 1))
    detectors.save(Detector(config), folder / "detector")
    texts = [text for combination in COMBINATIONS for text in captions(combination)]
    texts += [
        t for name, words in ATTRIBUTES.items() for word in words for t in phrases(name, word)
    ]
    tokenizer.train(folder / "tokenizer", texts)
    recipe = ClipRecipe(image_layers=1, image_width=24, image_hidden=24, text_layers=1)
    clip = clips.build(recipe, CLIPTokenizer.from_pretrained(folder / "tokenizer"))
    clips.save(clip, folder / "clip")
    toy = ExaminerRecipe(image_size=SIZE, widths=(4, 8), depths=(1, 1))
    examiners.save(examiners.build(toy), folder / "examiner")
    small = SegmentationConfig(image_size=SIZE, reduction=1, widths=(4, 8))
    unet = UNet(small)
    with torch.no_grad():
        unet.head.bias.copy_(torch.tensor([0.0, 100.0]))  # the whole image is object, as in `album`
    segmentation.save(unet, folder / "segmentation")
    return Judges.load(folder, folder / "tokenizer", folder / "segmentation")


def album(combinations: tuple[Combination, ...], *, seed: int) -> Photographs:
    """Return photographs of noise, whose masks are all object."""
    shape = (len(combinations), 3, SIZE, SIZE)
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(256, shape, generator=generator, dtype=torch.uint8)
    masks = torch.ones(len(images), SIZE, SIZE, dtype=torch.uint8)
    return Photographs(images, masks, combinations, tuple(range(len(images))))


def test_guidance_is_chosen_by_right_pictures_then_by_kid():
    def point(scale: float, right: int, kid: float) -> SweepPoint:
        return SweepPoint(scale, Share(right, 10), Share(0, 10), Interval(kid, kid, kid))

    points = [point(1, 7, 0.1), point(2, 9, 3.0), point(3, 9, 2.0), point(4, 8, 0.0)]
    assert measurement.choose(points) == 3


def test_the_prompts_of_the_contact_sheet_have_all_words_and_the_last_two_are_held_out():
    chosen = gallery.sheet_combinations()
    for attribute, words in ATTRIBUTES.items():
        assert {getattr(combination, attribute) for combination in chosen} == set(words)
    assert [combination in HELD_OUT for combination in chosen] == [False] * 6 + [True] * 2


def test_a_report_is_complete_and_its_images_exist(pack: Path, judges: Judges, tmp_path: Path):
    history = tmp_path / "history"
    history.mkdir()
    (history / "vae.jsonl").write_text('{"step": 1, "loss": 2.0}\n{"step": 2, "loss": 1.0}\n')
    (history / "vae.json").write_text(
        json.dumps({"seconds": 90, "needs": {}, "machine": {"cpu": "a CPU", "cores": 2}})
    )
    splits = Splits(
        album(TRAINED[::60], seed=1),
        album(TRAINED[::50], seed=2),
        album(tuple(HELD_OUT)[:8], seed=3),
    )
    docs = tmp_path / "docs"
    written = report.write_of(
        TeacherSampler(pack, tmp_path / "cache", steps=2, progress_bar=False),
        judges,
        splits,
        History.read(history),
        recipe=Recipe(steps=2, guidance_scales=(1, 3), sweep=3, pictures=6, sheet=2),
        docs=docs,
    )
    text = written.read_text()
    named = re.findall(r"!\[[^]]*\]\(([^)]+)\)", text)
    assert len(named) == len(set(named)) >= 6
    for name in named:
        with Image.open(docs / name) as image:
            image.verify()
        assert (docs / name).stat().st_size < 500_000
    assert {path.name for path in (docs / "starter").iterdir()} == {
        Path(name).name for name in named
    } | {"figures.json"}
    assert "nan" not in text and "| vae | 1.5 | a CPU, 2 |" in text
    figures = json.loads((docs / "starter" / "figures.json").read_text())
    assert figures["teacher"]["held-out"]["all_four"]["total"] == 6
    assert figures["guidance_scale"] in (1, 3)
    assert [row["met"] for row in figures["targets"]][-1] is False


def test_a_target_is_met_by_its_exact_value():
    def met(psnr: float) -> bool:
        verdict = {"bits_right": 1.0, "balanced_accuracy": {"red": 1.0}, "all_four": Share(1, 2)}
        figures = {
            "detector": {"test": verdict, "test, rebuilt": verdict},
            "examiner": {"pictures, trained": verdict, "pictures, held-out": verdict},
            "psnr": {"test": Interval(psnr, psnr, psnr)},
            "shapes": {"photographs": 0.9, "pictures, trained": 0.9},
            "sharpness": dict.fromkeys(("test, rebuilt", "pictures, trained"), Sharpness(1.0, 1.0)),
        }
        [target] = [row for row in measurement.targets(figures) if row["unit"] == "dB"]
        return target["met"]

    assert met(36.0) and not met(35.99)


def test_the_committed_document_is_what_its_figures_render_to(tmp_path: Path):
    docs = ROOT / "docs"
    shutil.copytree(docs / report.IMAGES, tmp_path / report.IMAGES)
    history = History.read(ROOT / "distillation" / "starter" / "history")
    rendered = report.render(tmp_path, history)
    assert rendered.read_text() == (docs / report.DOCUMENT).read_text()
