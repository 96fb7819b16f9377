"""`manage.py compare-methods` at toy size: every method to a release, the report, and resumption."""

import json
from io import StringIO

import pytest
from django.core.management import call_command
from django.core.management.base import CommandError

from distillation import folders
from distillation.method_comparison import settings as table
from distillation.method_comparison.calibration import setting_key
from distillation.method_comparison.trainings import CALIBRATION, Comparison
from distillation.pipeline import overrides, recipes
from distillation.runs import inputs
from generation.models import Release
from tests.distillation.toys import SMALL

pytestmark = pytest.mark.django_db
MINUTES = 0.5
CHANGES = (*(one for one in SMALL if not one.startswith("matching")), "weights=float16")


def compare(*arguments: str) -> str:
    out = StringIO()
    changes = [part for change in CHANGES for part in ("--set", change)]
    call_command(
        "compare-methods", "--recipe", "starter-1step", *changes, *arguments,
        stdout=out, stderr=StringIO(), verbosity=0,
    )  # fmt: skip
    return out.getvalue()


def write_paces(detector, **steps: int) -> Comparison:
    """Write the file of paces as if each method's settings had been timed: for so many steps in MINUTES."""
    recipe = overrides.changed(recipes.named("starter-1step"), overrides.parse(CHANGES))
    given = inputs.gather(Release.objects.get(name="toy"), detector=str(detector))
    comparison = Comparison(
        recipe, given, root=folders.root(), reports=folders.root() / "reports", minutes=MINUTES, share=1.0,
    )  # fmt: skip
    paces = {
        setting_key(setting): {"before": 0.0, "step": 60 * MINUTES / (count + 0.5)}
        for method, count in steps.items()
        for setting in table.SETTINGS[method]
    }
    comparison.folder.mkdir(parents=True)
    (comparison.folder / CALIBRATION).write_text(json.dumps(paces), "utf-8")
    return comparison


@pytest.mark.slow
def test_methods_are_tried_trained_and_reported_and_a_call_with_more_seeds_continues(
    teacher, detector
):
    comparison = write_paces(detector, squared=3, hinton=2)
    given = (
        "--detector", str(detector), "--methods", "hinton", "--trials", "2", "--minutes", str(MINUTES),
    )  # fmt: skip
    output = compare(*given, "--seeds", "1")

    assert "plain squared error: hinton." in output and str(comparison.folder) in output
    folder = comparison.folder
    assert {path.name for path in folder.iterdir()} == {
        "calibration.json", "report.html", "report.md", "methods.json", "pictures.webp",
        "curves.png", "curves.svg", "differences.png", "differences.svg",
    }  # fmt: skip
    facts = json.loads((folder / "methods.json").read_text("utf-8"))
    methods = {row["method"]: row for row in facts["methods"]}
    assert {name: row["steps"] for name, row in methods.items()} == {"squared": 3, "hinton": 2}
    assert methods["squared"]["change"] is None and methods["squared"]["reached"] == 1
    low, value, high = (methods["hinton"]["change"][name] for name in ("low", "value", "high"))
    assert low <= value <= high
    # The chosen temperature is the better one of the two trials, by right pictures less distance.
    trials = [row for row in facts["trials"] if row[0] == "hinton"]
    assert len(trials) == len(facts["trials"]) == 2
    best = max(trials, key=lambda row: row[3] - row[4])
    assert best[5] and best[1] == methods["hinton"]["weight"]

    root = folders.root()
    assert len(list(root.glob("pairs-*"))) == len(list(root.glob("decoder-*"))) == 1
    assert len(list(root.glob("structure-*"))) == 4  # two trials and a training of each method
    releases = list(root.glob("bundle-*/release/release.json"))
    recipes_of = [json.loads(path.read_text("utf-8"))["recipe"]["structure"] for path in releases]
    objectives = [recipe["objective"]["method"] for recipe in recipes_of]
    assert sorted(objectives) == ["guidance", "hinton", "hinton", "hinton"]
    assert not Release.objects.filter(kind="student").exists()

    written = {path: path.stat().st_mtime_ns for path in root.rglob("done.json")}
    compare(*given, "--seeds", "2")
    assert written == {path: path.stat().st_mtime_ns for path in written}
    assert len(list(root.glob("structure-*"))) == 6
    facts = json.loads((folder / "methods.json").read_text("utf-8"))
    assert [len(row["rights"]) for row in facts["methods"]] == [2, 2]


def test_a_method_without_time_for_a_step_is_refused_before_any_is_trained(teacher, detector):
    write_paces(detector, squared=3, hinton=0)
    with pytest.raises(CommandError, match=r"minutes: 0\.5 are too few"):
        compare(
            "--detector", str(detector), "--methods", "hinton", "--trials", "1", "--minutes", str(MINUTES),
        )  # fmt: skip
    assert not list(folders.root().glob("structure-*"))


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("--methods", "magic"), "magic.*hinton"),
        (("--methods", "ensemble"), "--with-teacher"),
        (("--with-teacher", "nobody"), "nobody"),
        (("--trials", "9"), "trials"),
        (("--seeds", "0"), "seeds"),
        (("--minutes", "0"), "minutes"),
        (("--minutes", "nan"), "minutes"),
        (("--minutes", "inf"), "minutes"),
        (("--share", "1.5"), "share"),
        (("--set", "structure.steeps=1"), "structure.steeps"),
    ],
)
def test_invalid_options_are_refused_before_anything_is_made(
    teacher, detector, settings, arguments, named
):
    with pytest.raises(CommandError, match=named):
        compare("--detector", str(detector), "--minutes", "1", *arguments)
    assert not list(settings.DATA_DIR.rglob("done.json"))
