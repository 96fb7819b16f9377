import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from distillation.evaluation import latency, measured, noninferiority, pictures, results, run
from distillation.evaluation.latency import Memory, Seconds, Speed, SpeedRecipe
from distillation.evaluation.noninferiority import Margins
from distillation.evaluation.prompts import Prompts
from distillation.evaluation.report import writer
from distillation.evaluation.results import ALL, Evaluation
from distillation.evaluation.seeds import seeds_of
from tests.distillation.evaluation import toys
from tests.distillation.starter import toys as starter

PROMPTS = 3
SPEED = Speed(
    "a CPU",
    calls=2,
    seconds={part: Seconds(0.01, 0.02) for part in latency.PARTS},
    images_per_second={2: 60.0},
    memory=Memory(1_000_000, 2_000_000, 3_000_000, 4_000_000, 0),
)


def evaluate(folder: Path, *, prompts: Prompts | None = None, **options) -> Evaluation:
    prompts = prompts or toys.prompts(PROMPTS)
    seeds = seeds_of(prompts.slugs, each=2)
    inputs = run.Inputs(
        toys.student_folder(), toys.teacher_folder(), prompts, seeds, folder, **options
    )
    return run.evaluate(inputs, progress_bar=False)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Evaluation, Path]:
    """Return an evaluation with all inputs, and its folder; one text contains markup."""
    folder = tmp_path_factory.mktemp("evaluation")
    prompts = toys.prompts(PROMPTS)
    evil = (*prompts.texts[:-1], "<b>|*</b>")
    evaluate(folder / "real", detector=toys.detector_folder())
    found = evaluate(
        folder,
        prompts=replace(prompts, texts=evil),
        detector=toys.detector_folder(),
        clip_name=starter.clip_folder(),
        tokenizer=starter.tokenizer_folder(),
        real_pictures=folder / "real",
    )
    return found, folder


@pytest.fixture(scope="module")
def timed(done: tuple[Evaluation, Path]) -> tuple[Evaluation, Path]:
    """Return the evaluation with times, and the folder of its report."""
    found, folder = done
    found = replace(
        found,
        student=replace(found.student, speed=SPEED),
        teacher=replace(found.teacher, speed=SPEED),
    )
    prompts = toys.prompts(PROMPTS)
    student, teacher = (
        pictures.make(
            release,
            prompts,
            seeds_of(prompts.slugs, each=2),
            cache=folder / "pictures",
            title="",
            progress_bar=False,
        )
        for release in (toys.student_folder(), toys.teacher_folder())
    )
    (folder / "timed").mkdir()
    writer.write(found, student, teacher, None, folder / "timed")
    return found, folder / "timed"


def test_every_figure_is_in_the_json(done: tuple[Evaluation, Path]):
    found, folder = done
    text = (folder / "evaluation.json").read_text()
    value = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert value == json.loads(json.dumps(results.as_json(found)))
    assert value["student"]["steps"] == 1 and value["teacher"]["steps"] == 3
    assert [row["slug"] for row in value["per_prompt"]] == ["prompt-0", "prompt-1", "prompt-2"]
    assert next(iter(value["right"])) == ALL and len(value["right"]) == 5
    assert len(value["distances"]) == 3
    assert value["machine"]["libraries"]["torch"] and value["seconds"]["judging"] > 0
    # Without the text encoder, which is never loaded onto the device.
    assert set(value["teacher"]["bytes_on_disk"]) >= {"unet", "vae"}
    assert "text_encoder" not in value["teacher"]["bytes_on_disk"]


def test_few_prompts_are_inconclusive_in_the_report_too(done: tuple[Evaluation, Path]):
    found, folder = done
    assert found.outcome == noninferiority.INCONCLUSIVE and len(found.verdicts) == 5
    text = (folder / "report.md").read_text()
    assert text.startswith("# toy-student against toy-teacher\n\n**inconclusive** 3 prompts")
    assert "Fewer than 20 prompts decide nothing." in text


def test_losses_come_before_gains_in_the_report(timed: tuple[Evaluation, Path]):
    text = (timed[1] / "report.md").read_text()
    heads = re.findall(r"^## (.*)$", text, re.MULTILINE)
    assert heads[:2] == ["What is worse", "What is better"]
    assert {"Attributes", "Diversity within a prompt", "Time, memory and size"} <= set(heads)
    assert not re.search(r"\bnan\b|\binf\b|None", text)


def test_images_of_the_report_exist_and_are_small(timed: tuple[Evaluation, Path]):
    _, folder = timed
    named = re.findall(r"!\[[^]]*\]\(([^)]+)\)", (folder / "report.md").read_text())
    assert {"sheet.webp", "attributes.png", "diversity.png", "speed.png"} <= set(named)
    for name in named:
        with Image.open(folder / name) as image:
            image.verify()
        assert (folder / name).stat().st_size < 1_000_000
    html = (folder / "report.html").read_text()
    assert html.count("data:image/") == len(named)
    assert 'src="http' not in html and "<b>" not in html and "&lt;b&gt;" in html


def test_one_picture_is_measured_beside_real_ones_without_distances_of_sets(done, tmp_path: Path):
    _, folder = done
    prompts = toys.prompts(1)
    inputs = run.Inputs(
        toys.student_folder(), toys.teacher_folder(), prompts, seeds_of(prompts.slugs, each=1), tmp_path,
        detector=toys.detector_folder(), clip_name=starter.clip_folder(), tokenizer=starter.tokenizer_folder(),
        real_pictures=folder / "real",
    )  # fmt: skip
    found = run.evaluate(inputs, progress_bar=False)
    assert found.distances == {} and found.to_real["student"].texture is None
    assert found.to_real["student"].gradient > 0


def test_an_evaluation_makes_no_picture_twice(done: tuple[Evaluation, Path], tmp_path: Path):
    found, folder = done
    made = {path: path.stat().st_mtime_ns for path in (folder / "pictures").rglob("*.png")}
    assert len(made) == 2 * 2 * PROMPTS
    again = evaluate(
        tmp_path, detector=toys.detector_folder(), cache=folder / "pictures", margins=Margins()
    )
    assert {p: p.stat().st_mtime_ns for p in (folder / "pictures").rglob("*.png")} == made
    assert again.right == found.right and again.spread == found.spread
    # Unmeasured values are not in the report and leave the verdict open.
    text = (tmp_path / "report.md").read_text()
    assert "KID" not in text and "pictures per second" not in text
    assert re.search(r"Not measured: (attributes, )?CLIP score\.", text)


@pytest.mark.slow
def test_an_evaluation_with_times_reports_them(tmp_path: Path):
    speed = SpeedRecipe(calls=2, warm_up=1, batches=(2,), rounds=1, threads=1)
    found = evaluate(tmp_path, detector=toys.detector_folder(), speed=speed)
    assert found.student.speed and found.teacher.speed and found.seconds["speed"] > 0
    assert "pictures per second, batches of 2" in (tmp_path / "report.md").read_text()


def test_a_summary_for_the_manifest_is_small_and_has_the_outcome(timed: tuple[Evaluation, Path]):
    value = results.summary(timed[0])
    assert value["outcome"] == noninferiority.INCONCLUSIVE and value["teacher"] == "toy-teacher"
    assert set(value["seconds_per_picture"]) == {"student", "teacher"}
    assert len(json.dumps(value)) < 3000


def test_fresh_seeds_decide_and_shared_seeds_are_reported_too(
    done: tuple[Evaluation, Path], tmp_path: Path
):
    prompts = toys.prompts(PROMPTS)
    core, fresh = seeds_of(prompts.slugs, each=2), seeds_of(prompts.slugs, each=3, run="run-1")
    inputs = run.Inputs(
        toys.student_folder(),
        toys.teacher_folder(),
        prompts,
        fresh,
        tmp_path,
        detector=toys.detector_folder(),
        fresh_from="run-1",
        core=core,
        core_cache=done[1] / "pictures",
    )
    made = len(list((done[1] / "pictures").rglob("*.png")))
    found = run.evaluate(inputs, progress_bar=False)
    assert len(list((done[1] / "pictures").rglob("*.png"))) == made  # those of the core were there
    value = json.loads((tmp_path / "evaluation.json").read_text())
    assert (value["fresh_from"], value["seeds_each"], value["core"]["seeds_each"]) == (
        "run-1",
        3,
        2,
    )
    assert [row["seeds"] for row in value["per_prompt"]] == [list(row) for row in fresh]
    # The core has the results of an evaluation of its seeds alone; the rest differs.
    assert found.core and found.core.right == done[0].right[ALL]
    assert found.core.sharpness == done[0].sharpness != found.sharpness
    assert measured.read(tmp_path, "student").seeds == 3
    text = (tmp_path / "report.md").read_text()
    assert "3 fresh seeds each" in text and "On the seeds that all evaluations share" in text


def test_real_pictures_are_compared_without_a_clip_too(
    done: tuple[Evaluation, Path], tmp_path: Path
):
    found = evaluate(
        tmp_path,
        detector=toys.detector_folder(),
        cache=done[1] / "pictures",
        real_pictures=done[1] / "real",
    )
    assert found.distances == {} and found.to_real["student"].real > 1
    text = (tmp_path / "report.md").read_text()
    assert "mean gradient ÷ that of real pictures" in text and "Noise counts as sharp" in text


def test_sharpness_is_of_the_pictures_and_its_margin_is_tested(done: tuple[Evaluation, Path]):
    found, folder = done
    assert found.sharpness.student.value > 0 and found.laplacian.teacher.value > 0
    assert {v.measure for v in found.verdicts} >= {"sharpness"}
    value = json.loads((folder / "evaluation.json").read_text())
    assert set(value["per_prompt"][0]["sharpness"]) == {"student", "teacher"}
    assert value["blind_to"]["sharpness"] and value["texture"]
    kept = measured.read(folder, "student")
    assert kept.gradient is not None and kept.gradient.shape == (PROMPTS, 2)
    mean = kept.gradient.double().mean()
    assert float(mean) == pytest.approx(found.sharpness.student.value, rel=1e-4)


def test_measurements_without_sharpness_are_read(tmp_path: Path):
    tensors = {"student.spread": torch.ones(2), "student.right": torch.ones(2, 2)}
    save_file(tensors, tmp_path / measured.FILE, {"slugs": '["a", "b"]'})
    found = measured.read(tmp_path, "student")
    assert found.gradient is None and found.take(("b",)).gradient is None
