"""Kept evaluation reports: they outlive the folders of their runs, and rank the variants."""

import json
from pathlib import Path

import pytest

from distillation import folders
from distillation.reports import evaluations
from tests.distillation.factories import make_run
from tests.distillation.reporting import figures, write_stage

pytestmark = pytest.mark.django_db


@pytest.fixture
def stages(settings) -> dict[str, Path]:
    return {
        "evaluation": write_stage(
            "evaluation-1", {"evaluation.json": figures(), "report.html": "<h1>", "sheet.webp": "RIFF"}
        ),
        "incumbent": write_stage("incumbent-1", {"evaluation.json": figures(new="mug")}),
        "gate": write_stage("gate-1", {"compared.webp": "RIFF", "gate.json": "{}"}),
    }  # fmt: skip


def test_a_kept_report_outlives_its_stages(stages):
    assert evaluations.keep("student-1", stages)
    for folder in stages.values():
        for path in folder.iterdir():
            path.unlink()
        folder.rmdir()
    report = evaluations.read("student-1")
    assert report.files == ("compared.webp", "sheet.webp", "report.html")
    assert report.active is not None and len(report.figures["per_prompt"]) == 3


def test_nothing_is_kept_where_nothing_was_measured(stages):
    stages["evaluation"].joinpath("evaluation.json").unlink()
    assert not evaluations.keep("student-1", stages)
    assert not folders.report("student-1").exists() and evaluations.read("student-1") is None


def test_a_missing_report_is_kept_from_the_folders_of_its_run(stages):
    run = make_run(name="student-1", folders={name: path.name for name, path in stages.items()})
    assert evaluations.keep_of(run) and evaluations.read("student-1") is not None
    (folders.report("student-1") / "sheet.webp").unlink()
    assert evaluations.keep_of(run)  # what was kept stays as it is
    assert "sheet.webp" not in evaluations.read("student-1").files
    assert not evaluations.keep_of(make_run())


def test_an_unreadable_report_is_ignored(stages):
    evaluations.keep("student-1", stages)
    (folders.report("student-1") / "evaluation.json").write_text("{")
    assert evaluations.read("student-1") is None


@pytest.mark.parametrize(
    ("order", "slugs"),
    [
        ("right", ["vase", "mug", "bowl"]),  # the bowl was not judged: last
        ("clip", ["mug", "bowl", "vase"]),
        ("diversity", ["vase", "mug", "bowl"]),
        ("distance", ["bowl", "vase", "mug"]),
        ("prompt", ["bowl", "mug", "vase"]),
    ],
)
def test_the_worst_variants_come_first(stages, order, slugs):
    evaluations.keep("student-1", {**stages, "incumbent": None})
    assert [row.slug for row in evaluations.read("student-1").variants(order)] == slugs


def test_a_variant_is_compared_with_the_active_release_where_that_covers_it(stages):
    ours = figures()
    ours["per_prompt"][0]["right"]["student"] = 0.25
    (stages["evaluation"] / "evaluation.json").write_text(json.dumps(ours))
    evaluations.keep("student-1", stages)
    rows = {row.slug: row for row in evaluations.read("student-1").variants("prompt")}
    assert rows["vase"].right == {"candidate": 0.25, "active": 0.5, "teacher": 1.0}
    assert rows["vase"].right_change == -0.25 and not rows["vase"].is_new
    assert rows["mug"].right["active"] is None and rows["mug"].is_new
    assert rows["mug"].right_change == pytest.approx(-0.1)


def change(text: str, before: str, after: str) -> dict[str, object]:
    sides = [{"release": name, "right": 3, "judged": 4} for name in (before, after)]
    return {"slug": text, "text": text, "before": sides[0], "after": sides[1]}


def prompts(*rows: dict[str, object]) -> dict[str, object]:
    """Return changes by prompt, as `prompt_changes.of` does."""
    counts = {"changed": len(rows), "better": len(rows), "worse": 0, "hard": 0}
    return counts | {"rows": list(rows), "hard_rows": []}


def test_the_kept_report_ends_with_the_prompts_before_and_after_once(stages):
    (stages["evaluation"] / "report.html").write_text("<html><body><h1>One</h1></body></html>")
    evaluations.keep("student-1", stages)
    for text in ("a <red> vase", "a blue bowl"):
        evaluations.add_prompts("student-1", prompts(change(text, "old", "student-1")))
    page = (folders.report("student-1") / "report.html").read_text("utf-8")
    assert page.count("Prompts before and after") == 1 and page.endswith("</body></html>")
    assert "<h1>One</h1>" in page and "a blue bowl" in page and "3 of 4" in page
    assert "vase" not in page

    evaluations.add_prompts("student-1", prompts(change("a <red> vase", "old", "student-1")))
    page = (folders.report("student-1") / "report.html").read_text("utf-8")
    assert "a &lt;red&gt; vase" in page
    evaluations.add_prompts("student-1", prompts())
    assert "No prompt changes" in (folders.report("student-1") / "report.html").read_text("utf-8")


def test_without_a_kept_report_no_prompts_are_written():
    evaluations.add_prompts("never-made", prompts())
    assert not folders.report("never-made").exists()
