"""Admin in a browser: a run's curves and live progress, review by keyboard, slider over two releases."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image as Pictures

from distillation import folders
from distillation.designs import lifecycle as designs
from distillation.models import Example, Run
from distillation.runs import lifecycle as runs
from tests.acceptance import browser
from tests.acceptance.browser import Visitor
from tests.distillation.example_factories import make_example
from tests.distillation.factories import make_run
from tests.distillation.pictures import png
from tests.distillation.reporting import write_stage
from tests.factories import make_embedding, make_release, make_user, make_variant
from tests.web import Web, eventually

pytestmark = browser.MARKS
NO_ICON = (
    '<link rel="icon" href="data:,">'  # else the browser requests /favicon.ico and logs an error
)


@pytest.fixture
def visitor(tmp_path: Path, settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[Visitor]:
    """A superuser, on a web process that reads this test's data folder."""
    make_user(username="admin", password="a good password", is_superuser=True, is_staff=True)
    web = Web(tmp_path, DATA_DIR=str(settings.DATA_DIR))
    with browser.visiting(web.url, monkeypatch) as found:
        found.page.goto("/admin/login/?next=/admin/")
        found.page.fill("[name=username]", "admin")
        found.page.fill("[name=password]", "a good password")
        found.page.press("[name=password]", "Enter")
        found.page.wait_for_url("**/admin/")
        yield found
    web.stop()


def test_the_page_of_a_run_updates_itself_and_its_curves_are_read_by_keyboard(visitor: Visitor):
    run = make_run(folders={"pairs": "pairs-1", "joint": "joint-1"})
    _, hold = runs.claim("worker-1")
    runs.note(hold, stage="joint", percent=40.0)
    lines = [json.dumps({"step": step, "loss": 1 / step}) for step in range(1, 101)]
    write_stage("joint-1", {"metrics.jsonl": "\n".join(lines)})
    page = visitor.page
    page.goto(f"/admin/distillation/run/{run.pk}/change/")
    page.get_by_text("40.0 %").wait_for()
    curve = page.locator("#run-curves svg")
    curve.focus()
    page.keyboard.press("ArrowLeft")
    page.get_by_text("joint: loss 0.01 at step 100").wait_for()
    page.keyboard.press("ArrowLeft")
    page.get_by_text("joint: loss 0.0101 at step 99").wait_for()
    assert curve.locator("text").count() == 5  # three values and two steps

    runs.note(hold, percent=77.0)
    page.get_by_text("77.0 %").wait_for()
    runs.finish(hold)
    page.locator("#run-progress").wait_for(state="detached")
    assert Run.objects.get(pk=run.pk).status == "succeeded"


def test_examples_are_reviewed_by_keyboard(visitor: Visitor):
    one, two, three = (make_example(content=png(), side=64) for _ in range(3))
    page = visitor.page

    def at(example: Example) -> None:
        page.get_by_role("link", name=f"Example {example.pk}", exact=True).wait_for()

    def decided(example: Example, decision: str) -> None:
        eventually(lambda: Example.objects.get(pk=example.pk).override == decision)

    page.goto("/admin/distillation/example/review/")
    at(one)
    page.keyboard.press("a")
    at(two)
    decided(one, "accepted")
    page.keyboard.press("ArrowRight")
    at(three)
    page.keyboard.press("ArrowLeft")
    at(two)
    page.keyboard.press("r")
    at(three)
    decided(two, "rejected")
    page.keyboard.press("u")
    at(two)
    decided(two, "")


def test_the_slider_over_two_releases_moves_by_keyboard(visitor: Visitor):
    embedding = make_embedding()
    for name, grey in (("old", 20), ("new", 200)):
        make_release(name=name)
        folder = folders.root() / "pictures" / f"{name}-{'0' * 16}"
        folder.mkdir(parents=True)
        picture = Pictures.new("RGB", (64, 64), (grey, grey, grey))
        picture.save(folder / f"{embedding.sha256[:24]}-5.png")
    page = visitor.page
    page.goto("/admin/generation/release/compare/?first=old&second=new")
    page.locator(".rt-compared input").focus()
    for _ in range(10):
        page.keyboard.press("ArrowLeft")
    over = page.locator(".rt-over")
    assert "60%" in over.evaluate("image => image.style.clipPath")
    assert visitor.loaded(".rt-stack img") == [64, 64]


def test_a_design_is_requested_and_its_page_updates_itself(visitor: Visitor):
    make_release(name="teacher-1", kind="teacher", image_sizes=((128, 128),))
    make_variant()
    page = visitor.page
    page.goto("/admin/distillation/design/add/")
    page.get_by_label("Size").fill("8MB")
    page.get_by_label("Hours").fill("2")
    page.get_by_role("button", name="Save", exact=True).click()
    page.get_by_text("design-").first.wait_for()
    design = designs.claim("worker-1", on=["cpu"])
    page.goto(f"/admin/distillation/design/{design.pk}/change/")
    designs.note(design, seconds=1800, at_work="Candidate 0: rung 1")
    page.get_by_text("25.0 %").wait_for()
    page.get_by_text("Candidate 0: rung 1").wait_for()

    folder = designs.output(design)
    folder.mkdir(parents=True)
    (folder / "report.html").write_text(f"{NO_ICON}<h1>Front of the design</h1>")
    designs.finish(design, choice=None, reason="None is within the limits.")
    page.get_by_text("None is within the limits.").first.wait_for()
    page.get_by_role("link", name="Report").click()
    page.get_by_role("heading", name="Front of the design").wait_for()
