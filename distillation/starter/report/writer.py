"""Write the report on the starter: docs/starter.md with its figures, plots and contact sheets.

`docs/starter/figures.json` contains all measured numbers; `render` writes the document from it.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from torch import Tensor

from distillation.evaluation.report import document, plots
from distillation.image_metrics.distances import RESAMPLES, Interval
from distillation.resumable import atomic, stages
from distillation.starter import photographs, rendering
from distillation.starter import recipe as recipes
from distillation.starter.report import gallery, measurement, metrics
from distillation.starter.report import student as students
from distillation.starter.report.history import History
from distillation.starter.report.measurement import Judges, Measured, Recipe, Splits
from distillation.starter.report.sampler import TeacherSampler
from distillation.starter.words import ATTRIBUTES, BITS, Combination
from generation.engine.proportions import Share

TEMPLATE = Path(__file__).with_name("templates") / "starter.j2"
DOCUMENT, IMAGES, FIGURES = "starter.md", "starter", "figures.json"
SEGMENTATION = Path(__file__).parents[1] / "detector-3" / "segmentation"
SPLITS = ("validation", "test", "test-held-out")
FULL = Recipe()
QUICK = Recipe(steps=4, guidance_scales=(1, 2), sweep=4, pictures=8, sheet=2)


def write(
    root: Path,
    pack: Path,
    judges: Path,
    *,
    docs: Path,
    student: Path | None = None,
    quick: bool = False,
    progress_bar: bool = True,
) -> Path:
    """Measure; write `starter.md` and the folder `starter` into `docs`; return the path of the document.

    root: data folder of the stages; missing photographs are rendered, and pictures are cached in it. pack: release of
    the teacher; judges: folder of `detector`, `clip` and `examiner`, next to the folder `history`. student: a
    release to measure too.
    """
    table = recipes.QUICK if quick else recipes.STAGES
    [scenes] = [stage for stage in table if stage.name == "scenes"]
    folder = stages.folder_of(table, root, scenes.name)
    rendering.build(folder, scenes.recipe, splits=SPLITS, progress_bar=progress_bar)
    recipe = QUICK if quick else FULL
    return write_of(
        TeacherSampler(pack, root / "pictures", steps=recipe.steps, progress_bar=progress_bar),
        Judges.load(judges, pack / "tokenizer", SEGMENTATION),
        Splits(*(photographs.read(folder, split) for split in SPLITS)),
        History.read(judges.parent / "history"),
        recipe=recipe,
        docs=docs,
        student=None
        if student is None
        else students.make(student, root / "pictures", progress_bar=progress_bar),
    )


def write_of(
    sampler: TeacherSampler,
    judges: Judges,
    splits: Splits,
    history: History,
    *,
    recipe: Recipe,
    docs: Path,
    student: tuple[Tensor, Sequence[Combination]] | None = None,
) -> Path:
    """Measure and write the report from loaded inputs; return the path of the document.

    student: pictures, uint8 [N, 3, height, width], and their combinations.
    """
    images = docs / IMAGES
    images.mkdir(parents=True, exist_ok=True)
    measured = measurement.measure(sampler, judges, splits, recipe, student)
    text = json.dumps(measured.figures, indent=2, default=asdict)
    atomic.write_file(images / FIGURES, text + "\n")
    _draw(measured, history, images)
    gallery.contact_sheet(
        images / "sheet.webp", sampler, judges, size=recipe.sheet, guidance_scale=measured.guidance
    )
    gallery.side_by_side(images / "side-by-side.webp", sampler, splits, measured)
    gallery.mistakes(images / "mistakes.webp", measured)
    return render(docs, history)


def render(docs: Path, history: History) -> Path:
    """Write the document from the saved figures and return its path."""
    data = {
        "f": json.loads((docs / IMAGES / FIGURES).read_text("utf-8")),
        "history": history,
        "attributes": ATTRIBUTES,
        "bits": BITS,
        "resamples": RESAMPLES,
    }
    atomic.write_file(docs / DOCUMENT, document.markdown(TEMPLATE, data))
    return docs / DOCUMENT


def _draw(measured: Measured, history: History, images: Path) -> None:
    def intervals(shares: Sequence[Share]) -> list[Interval]:
        return [Interval(share.value, *share.interval) for share in shares]

    points = measured.sweep
    plots.sweep(
        images / "sweep.png",
        [point.guidance_scale for point in points],
        shares={
            "all four attributes": intervals([point.all_four for point in points]),
            "all 23 bits": intervals([point.strict for point in points]),
        },
        kid=[point.kid_1000 for point in points],
        chosen=measured.guidance,
        floor=measured.floor.kid,
    )
    verdict = metrics.joined(list(measured.teacher.values()))
    matrices = {
        name: (words, metrics.confusion_matrix(verdict, name)) for name, words in ATTRIBUTES.items()
    }
    plots.confusions(images / "confusions.png", matrices)
    for stage, curve in history.curves.items():
        plots.losses(images / f"losses-{stage}.png", curve, title=stage)
