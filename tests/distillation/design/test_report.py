"""Files of a finished design: the plot with its titles, and the comparison with the student in service."""

import re
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest

from distillation.design import report
from distillation.design.candidates import Candidate
from distillation.design.limits import Limits
from distillation.design.report import Reference
from distillation.design.search import SearchRequest
from distillation.design.space import Space
from distillation.pipeline.recipes import ONE_STEP
from tests.distillation.design.candidates import PARAMS, candidate

SPACE = Space(
    ONE_STEP, {name: (value,) for name, value in PARAMS.items()}, frozenset({("tiny", "1")}), 8
)


def judged(one: Candidate, right: int) -> Candidate:
    return replace(
        one, rungs=tuple(replace(rung, right=(right,) * 64, each=8) for rung in one.rungs)
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    small, large = judged(candidate(0, 0.8, 0.9, size=4, time=6), 7), judged(candidate(1, 0.8), 6)
    own = judged(candidate(2, 0.9), 7)
    assert own.costs is not None and own.last is not None
    report.write(
        tmp_path,
        title="design-1",
        description={"recipe": "starter-1step"},
        request=SearchRequest(Limits(), "smallest", "cpu", "torch", hours=1),
        space=SPACE,
        candidates=[small, large],
        reference=Reference("in-service", own.costs, own.last),
    )
    return tmp_path


def test_the_report_says_whether_the_choice_is_better_with_its_interval(folder):
    page = (folder / "report.md").read_text("utf-8")
    assert "2.00 times smaller and 1.67 times faster" in page
    assert "its share of right pictures differs by +0.0 points (+0.0 to +0.0)" in page
    assert "It is better: 2.00 times smaller at equal quality and 1.67 times faster" in page


def test_the_points_of_the_plot_have_titles_and_links(folder):
    page = (folder / "report.html").read_text("utf-8")
    [drawing] = re.findall(r"<svg.*?</svg>", page, re.DOTALL)
    assert "&lt;svg" not in page and "data:image/png" not in page
    for text in (drawing, (folder / "front.svg").read_text("utf-8")):
        root = ElementTree.fromstring(text)
        titles = [one.text for one in root.iter("{http://www.w3.org/2000/svg}title")]
        assert len(titles) == 4  # two candidates over size and over time
        assert all("quality: 0." in one for one in titles)
        assert "candidate: 0; student: tiny, width 1" in titles[0]
        assert "sheets/candidate-1.webp" in text
