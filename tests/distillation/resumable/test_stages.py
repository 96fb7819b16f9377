"""A stage is rebuilt exactly when its inputs change, and an interrupted build continues."""

import dataclasses
import json
import multiprocessing
import os
import signal
import time
from itertools import count
from pathlib import Path

import pytest

from distillation.resumable import stages as module
from distillation.resumable.stages import (
    Context,
    Stage,
    StageBusy,
    StageDamaged,
    StagesInvalid,
    build,
    keys,
    status,
)


@dataclasses.dataclass(frozen=True)
class Recipe:
    amount: int = 1
    sizes: tuple[int, ...] = (2, 3)


def make(context: Context) -> None:
    """Write the needed products and one more line; append a line to `builds`."""
    lines = [f"amount {context.recipe.amount}"]
    for folder in context.needs.values():
        lines += (folder / "product").read_text().splitlines()
    (context.folder / "product").write_text("\n".join(lines))
    with (context.folder / "builds").open("a") as file:
        file.write("built\n")


def table(**changes: object) -> list[Stage]:
    """Return flour → dough → bread, and salt, which bread needs too. changes: fields to replace, by stage."""
    made = [
        Stage("flour", Recipe(), (), make),
        Stage("salt", Recipe(), (), make),
        Stage("dough", Recipe(), ("flour",), make),
        Stage("bread", Recipe(), ("dough", "salt"), make),
    ]
    return [dataclasses.replace(stage, **changes.get(stage.name, {})) for stage in made]


def builds(folders: dict[str, Path]) -> dict[str, int]:
    return {
        name: len((folder / "builds").read_text().splitlines()) for name, folder in folders.items()
    }


def changed(before: dict[str, Path], after: dict[str, Path]) -> set[str]:
    return {name for name in before if before[name] != after[name]}


def test_all_stages_are_built_in_order_and_only_once(tmp_path):
    folders = build(table(), tmp_path)
    assert list(folders) == ["flour", "salt", "dough", "bread"]
    assert (folders["bread"] / "product").read_text().count("amount") == 4
    assert build(table(), tmp_path) == folders
    assert set(builds(folders).values()) == {1}


@pytest.mark.parametrize(
    ("stage", "rebuilt"),
    [
        ("flour", {"flour", "dough", "bread"}),
        ("salt", {"salt", "bread"}),
        ("dough", {"dough", "bread"}),
        ("bread", {"bread"}),
    ],
)
@pytest.mark.parametrize("change", [{"recipe": Recipe(amount=2)}, {"revision": 2}])
def test_a_change_rebuilds_only_what_depends_on_it(tmp_path, stage, rebuilt, change):
    before = build(table(), tmp_path)
    after = build(table(**{stage: change}), tmp_path)
    assert changed(before, after) == rebuilt
    assert set(builds(after).values()) == {1}  # the others were not built again
    assert build(table(), tmp_path) == before  # the first builds are reused
    assert set(builds(before).values()) == {1}


def test_keys_depend_on_which_needs_come_first():
    swapped = keys(table(bread={"needs": ("salt", "dough")}))
    assert swapped["bread"] != keys(table())["bread"]


def test_keys_are_the_same_in_every_process():
    assert keys([Stage("flour", Recipe(), (), make)]) == {"flour": "9c4456e069820946"}


def test_an_interrupted_build_continues_in_its_folder(tmp_path):
    def knead(context: Context) -> None:
        half = context.folder / "half"
        if not half.exists():
            half.write_text("half")
            raise KeyboardInterrupt
        make(context)

    ticks = count()
    options = {"clock": lambda: float(next(ticks))}
    with pytest.raises(KeyboardInterrupt):
        build(table(dough={"build": knead}), tmp_path, **options)
    states = {row.name: row.state for row in status(table(), tmp_path)}
    assert states == {
        "flour": "finished",
        "salt": "finished",
        "dough": "started",
        "bread": "absent",
    }
    folders = build(table(dough={"build": knead}), tmp_path, **options)
    assert builds(folders) == {"flour": 1, "salt": 1, "dough": 1, "bread": 1}


def test_the_seconds_of_all_sessions_are_added(tmp_path):
    now = [0.0]

    def knead(context: Context) -> None:
        now[0] += 100.0
        if now[0] < 250.0:
            raise KeyboardInterrupt
        make(context)

    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            build(table(dough={"build": knead}), tmp_path, clock=lambda: now[0])
    assert [row.seconds for row in status(table(), tmp_path) if row.name == "dough"] == [200.0]
    folders = build(table(dough={"build": knead}), tmp_path, clock=lambda: now[0])
    assert json.loads((folders["dough"] / "done.json").read_text())["seconds"] == 300.0


def _hang(context: Context) -> None:
    (context.folder / "half").write_text("half")
    (context.folder.parent / "hangs").write_text("")
    signal.pause()


def _build_hanging(root: Path) -> None:
    module.KEEP_TIME_EVERY_SECONDS = 0.05
    build(table(salt={"build": _hang}), root)


@pytest.fixture
def hanging(tmp_path):
    """A process that builds, and hangs in the stage salt."""
    process = multiprocessing.get_context("spawn").Process(target=_build_hanging, args=(tmp_path,))
    process.start()
    while not ((tmp_path / "hangs").exists() and list(tmp_path.glob("salt-*/seconds.json"))):
        assert process.is_alive()
        time.sleep(0.01)
    yield process
    process.kill()
    process.join()


def test_two_builds_at_once_are_refused_and_a_killed_one_releases_its_lock(tmp_path, hanging):
    with pytest.raises(StageBusy, match=f"salt.*id {hanging.pid}"):
        build(table(), tmp_path)
    assert not list(tmp_path.glob("salt-*/done.json"))

    hanging.kill()
    hanging.join()
    seconds = [row.seconds for row in status(table(), tmp_path) if row.name == "salt"]
    assert seconds[0] >= 0
    folders = build(table(), tmp_path)
    assert (folders["salt"] / "half").exists()
    assert (folders["salt"] / "done.json").exists()


def test_done_is_written_last_and_only_when_the_build_returned(tmp_path):
    seen = []

    def fail(context: Context) -> None:
        make(context)
        seen.append(sorted(os.listdir(context.folder)))
        raise RuntimeError("burnt")

    with pytest.raises(RuntimeError, match="burnt"):
        build(table(bread={"build": fail}), tmp_path)
    assert "done.json" not in seen[0]
    assert not list(tmp_path.glob("bread-*/done.json"))

    folder = build(table(), tmp_path)["bread"]
    times = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert max(times, key=times.__getitem__) == "done.json"
    done = json.loads((folder / "done.json").read_text())
    assert done["key"] == folder.name.removeprefix("bread-")
    assert done["recipe"] == {"amount": 1, "sizes": [2, 3]}
    assert done["needs"].keys() == {"dough", "salt"}
    assert done["machine"]["cores"] >= 1
    assert done["machine"]["cpu"] and done["machine"]["torch"]


def test_selected_stages_are_built_with_those_they_need(tmp_path):
    assert list(build(table(), tmp_path, only=["dough"])) == ["flour", "dough"]
    states = [row.state for row in status(table(), tmp_path)]
    assert states == ["finished", "absent", "finished", "absent"]


def test_each_stage_is_reported_before_and_after(tmp_path):
    seen = []
    build(
        table(), tmp_path, only=["dough"], on_stage=lambda row: seen.append((row.name, row.state))
    )
    assert seen == [
        ("flour", "absent"),
        ("flour", "finished"),
        ("dough", "absent"),
        ("dough", "finished"),
    ]
    seen.clear()
    build(
        table(), tmp_path, only=["dough"], on_stage=lambda row: seen.append((row.name, row.state))
    )
    assert seen == [("flour", "finished"), ("dough", "finished")]


def test_status_counts_the_bytes(tmp_path):
    build(table(), tmp_path)
    (row, *_) = status(table(), tmp_path)
    before = row.bytes
    (row.folder / "big").write_bytes(bytes(5000))
    assert status(table(), tmp_path)[0].bytes == before + 5000


def test_a_damaged_record_is_named(tmp_path):
    folder = build(table(), tmp_path)["salt"]
    (folder / "done.json").write_text("{")
    with pytest.raises(StageDamaged, match=r"done\.json.*Delete"):
        build(table(), tmp_path)


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ([Stage("a", Recipe(), (), make), Stage("a", Recipe(), (), make)], "named 'a'"),
        ([Stage("a", Recipe(), ("b",), make), Stage("b", Recipe(), (), make)], "come before"),
        ([Stage("a", {"amount": 1}, (), make)], "dataclass"),
        ([Stage("a", Recipe(amount=Path("x")), (), make)], "not JSON"),
        ([Stage("a", Recipe(amount=float("nan")), (), make)], "not JSON"),
    ],
)
def test_a_table_that_contradicts_itself_is_refused(tmp_path, stages, message):
    with pytest.raises(StagesInvalid, match=message):
        build(stages, tmp_path)
    assert not list(tmp_path.iterdir())


def test_an_unknown_stage_is_refused(tmp_path):
    with pytest.raises(StagesInvalid, match=r"no stage butter.*flour"):
        build(table(), tmp_path, only=["butter"])
