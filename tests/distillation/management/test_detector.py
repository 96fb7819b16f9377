"""`manage.py detector`: train on a labelled folder, test, list, register, activate."""

import json
from io import StringIO

import pytest
from django.core.management import CommandError, call_command

from distillation.detectors import registry as detectors
from distillation.models import Detector
from tests.distillation.detector.folders import make_labelled, make_version

pytestmark = pytest.mark.django_db


def run(*arguments: object) -> str:
    out = StringIO()
    call_command("detector", *map(str, arguments), stdout=out, stderr=StringIO())
    return out.getvalue()


@pytest.fixture
def labelled(tmp_path):
    return make_labelled(tmp_path / "labelled", 50)


def train(labelled, *more: object) -> str:
    start = make_version(labelled.parent / "start", name="start")
    return run("train", labelled, "--from", start, "--image-size", 32, "--steps", 3, *more)


def test_a_version_is_trained_tested_and_activated(labelled, tmp_path):
    bad = make_labelled(tmp_path / "bad", 6, first=100, defect="wrong colour")
    output = train(labelled, "--name", "mine", "--test", bad, "--activate")
    assert "Trained and registered mine" in output and "The active detector is mine" in output
    row = detectors.active()
    assert row is not None and row.manifest["figures"]["test"]["bad"] == 1
    assert row.manifest["required"] == ["sharp", "clean", "whole", "large"]

    output = run("test", bad, "--out", tmp_path / "out")
    assert "mine on 7 images" in output and "wrong colour" in output and "precision" in output
    fields = json.loads((tmp_path / "out" / "trial.json").read_text())
    assert fields["bad"] == 1 and len(fields["pictures"]) == 7


def test_versions_are_listed_registered_and_activated(tmp_path):
    run("register", make_version(tmp_path / "one", name="one"))
    output = run("register", make_version(tmp_path / "two", name="two"))
    assert "manage.py detector activate two" in output
    run("activate", "two")
    lines = run("list").splitlines()
    assert [line.split()[:2] for line in lines] == [["two", "active"], ["one", "candidate"]]
    assert " UTC  requires sharp" in lines[0]


@pytest.mark.slow
def test_a_version_without_a_name_gets_the_next_number(labelled, tmp_path):
    detectors.register(make_version(tmp_path / "seven", name="detector-7"))
    assert "registered detector-8 " in train(labelled)


def test_an_invalid_label_is_refused_with_its_line(labelled):
    with (labelled / "labels.csv").open("a") as file:
        file.write("gone.png,red,,,,\n")
    with pytest.raises(CommandError, match=r"labels.csv line 52: there is no file gone.png"):
        train(labelled)


def test_a_name_that_is_taken_is_refused_before_the_training(labelled, tmp_path):
    detectors.register(make_version(tmp_path / "mine", name="mine"))
    with pytest.raises(CommandError, match="mine is already registered"):
        train(labelled, "--name", "mine")
    assert Detector.objects.count() == 1


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("activate", "nobody"), "There is no detector 'nobody'"),
        (("test", "nowhere", "--detector", "nobody"), "There is no detector 'nobody'"),
        (("register", "nowhere"), "holds no usable detector"),
    ],
)
def test_missing_detectors_and_folders_are_named(arguments, named):
    with pytest.raises(CommandError, match=named):
        run(*arguments)


def test_an_invalid_false_accept_rate_is_refused(labelled):
    with pytest.raises(CommandError, match="false-accept rate"):
        train(labelled, "--false-accepts", "0.7")
