"""Verdicts: one per version, repeated when the tags change, overridden by people."""

from pathlib import Path

import pytest

from distillation.detectors import registry as detectors
from distillation.examples import lifecycle as curation
from distillation.examples import verdicts
from distillation.models import Example, Verdict
from tests.distillation.example_factories import make_example, make_source
from tests.distillation.pictures import png
from tests.factories import make_release, make_variant

pytestmark = pytest.mark.django_db


@pytest.fixture
def version(detector: Path):
    """The untrained detector of the bits vase and bowl, one of which is true; active."""
    return detectors.activate(detectors.register(detector))


def examples(*, source=None, count: int = 3) -> list[Example]:
    return [
        make_example(source=source, content=png(seed, width=64, height=64)) for seed in range(count)
    ]


def test_every_example_that_was_not_refused_gets_a_verdict(version):
    source = make_source(tags=["winter"], variants=[make_variant(tags=["vase", "not-shiny"])])
    judged = examples(source=source)
    make_example(source=source, refusal="broken")
    seen: list[tuple[int, int]] = []
    assert verdicts.judge(version, on_progress=lambda *progress: seen.append(progress)) == 3
    assert seen == [(3, 3)]
    found = Verdict.objects.all()
    assert {row.example for row in found} == set(judged)
    for row in found:
        assert (row.present, row.absent) == (["vase", "winter"], ["shiny"])
        assert row.is_accepted == (not row.failing) and 0 <= row.score <= 1
        assert set(row.probabilities) == {"vase", "bowl"}


def test_absent_bits_are_judged(version):
    wanted, unwanted = make_source(tags=["vase"]), make_source(name="not", tags=["not-vase"])
    content = png(1, width=64, height=64)
    for source in (wanted, unwanted):
        make_example(source=source, content=content)
    verdicts.judge(version)
    shown, absent = (Verdict.objects.get(example__source=source) for source in (wanted, unwanted))
    assert shown.probabilities == absent.probabilities
    assert shown.score == pytest.approx(
        min(shown.probabilities["vase"], 1 - shown.probabilities["bowl"])
    )
    assert absent.score == pytest.approx(1 - absent.probabilities["vase"])
    assert absent.failing in ([], ["vase"])


def test_judging_again_changes_nothing(version):
    examples()
    verdicts.judge(version)
    before = list(Verdict.objects.values())
    assert verdicts.judge(version) == 0 == verdicts.judge_all()
    assert list(Verdict.objects.values()) == before


def test_another_version_adds_its_verdicts_and_a_persons_decision_stays(
    version, detector, tmp_path
):
    (example,) = examples(count=1)
    verdicts.judge(version)
    curation.override(Example.objects.all(), curation.Override.ACCEPTED, by=None)
    detector.rename(tmp_path / "other")
    other = detectors.register(tmp_path / "other")
    assert verdicts.judge(other) == 1
    example.refresh_from_db()
    assert {row.detector for row in example.verdicts.all()} == {version, other}
    assert example.override == "accepted" and example.overridden_at


def test_changed_tags_renew_the_verdicts(version):
    source = make_source(tags=["vase"])
    examples(source=source, count=2)
    verdicts.judge(version)
    source.tags = ["bowl"]
    source.save()
    assert verdicts.judge(version) == 2
    assert [row.present for row in Verdict.objects.all()] == [["bowl"], ["bowl"]]


def test_a_picture_whose_file_is_gone_is_left_out_and_the_others_are_judged(version, settings):
    gone, there = examples(count=2)
    (Path(settings.MEDIA_ROOT) / gone.file).unlink()
    assert verdicts.judge(version) == 1
    assert Verdict.objects.get().example == there


def test_the_shipped_detector_judges_only_pictures_of_the_starter():
    examples(count=1)
    make_release(name="other-teacher", kind="teacher")
    assert not detectors.can_judge(detectors.active(), "other-teacher")
    assert verdicts.judge_all() == 0
