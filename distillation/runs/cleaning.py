"""Deletion of data that no run needs: folders of stages, snapshots, images and pairs.

All of it can be rebuilt from the releases and the catalogue; deleting too early costs time. Evaluation reports
(`reports`) are kept.
"""

import json
import os
import re
import shutil
import stat
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path

import structlog
from django.conf import settings
from django.db import transaction
from django.db.models import QuerySet

from distillation import folders
from distillation.detector.errors import DetectorUnusable
from distillation.models import Design, Run
from distillation.reports import evaluations
from distillation.resumable import stages
from distillation.runs import approval, recipe_descriptions
from distillation.training.errors import TrainingError
from generation.engine.errors import EngineError
from generation.errors import GenerationError
from generation.infra import stalls
from generation.models import Release
from generation.releases import lifecycle as releases

log = structlog.get_logger(__name__)

KEPT_RUNS = 2  # latest finished runs to keep: the next run probably shares their stages
UNUSED_DAYS = 30.0  # for folders that belong to no known run (perhaps manual work), and for pairs
SETTLED_DAYS = 1.0  # for images, and for incomplete files left by a killed process
NAME = re.compile(r"(?P<of>.+)-[0-9a-f]{16}")
# Either file marks the folder of a stage or of a snapshot.
MARKS = (stages.DONE, stages.LOCK, stages.SECONDS, "catalogue.json")
DAY = 24 * 3600.0


@dataclass(frozen=True)
class Removed:
    """A deleted place: a folder, or the folder of `files` files. Relative to the data of distillation."""

    place: str
    size_bytes: int
    why: str
    files: int = 0


def clean(*, kept_runs: int = KEPT_RUNS, is_dry: bool = False) -> list[Removed]:
    """Return what was deleted, or would be. Safe to run during slices."""
    now = time.time()
    if not folders.root().is_dir():
        return []
    if not is_dry:
        for run in Run.objects.exclude(status__in=Run.OPEN):
            evaluations.keep_of(run)  # runs from before reports were kept
    wanted = _wanted(kept_runs, Run.objects.all())
    needs = _Needs.of(wanted)
    # Reading whole folders may take minutes: not in the transaction, which locks the open runs.
    spare = [
        (path, Removed(_place(path), _size(path), why))
        for path, why in (*_stages(needs, now), *_pictures(needs, now), *_designs(now))
    ]
    if not is_dry:
        spare = _set_aside(spare, kept_runs)
        for path, _ in spare:
            _delete(path)
    found = [removed for _, removed in spare] + _pairs(wanted, now, is_dry=is_dry)
    if not is_dry:
        freed = sum(removed.size_bytes for removed in found)
        log.info("distillation_cleaned", removed=len(found), freed_bytes=freed)
    return found


def _set_aside(spare: Sequence[tuple[Path, Removed]], kept_runs: int) -> list[tuple[Path, Removed]]:
    """Rename the folders that are still not needed, so that no process uses them any more. Return the new paths."""
    aside = []
    with transaction.atomic():
        # Locked while folders are renamed: a slice writes its needs before it looks for existing stages.
        needs = _Needs.of(_wanted(kept_runs, Run.objects.select_for_update()))
        unneeded = _unneeded_stages(needs)
        free = set() if any(map(_is_being_built, unneeded)) else set(unneeded)
        for path, removed in spare:
            is_of_run = path.parent == folders.root() and _is_stage(path)
            if needs.have(path) or (is_of_run and path not in free):
                continue
            with (
                suppress(FileNotFoundError),
                _held(path) as is_free,
            ):  # another cleaning removes too
                if is_free:
                    aside.append((path.rename(path.with_name(f".removing-{path.name}")), removed))
    return aside


def _wanted(kept_runs: int, runs: QuerySet[Run]) -> list[Run]:
    """Return the open runs among `runs`, and the latest ones that have ended."""
    ended = Run.objects.filter(status__in=(Run.Status.SUCCEEDED, Run.Status.FAILED))
    return [*runs.filter(status__in=Run.OPEN), *ended.order_by("-finished_at")[:kept_runs]]


@dataclass(frozen=True)
class _Needs:
    """Needed data. stages: names of folders; pictures: names of releases whose pictures are needed."""

    stages: set[str]
    pictures: set[str]

    @classmethod
    def of(cls, wanted: Sequence[Run]) -> "_Needs":
        designs = Design.objects.filter(status__in=Design.OPEN)
        pictures = set(Release.objects.filter(releases.IN_SERVICE).values_list("name", flat=True))
        # People look at the pictures of releases that wait for a decision.
        for run in (*wanted, *approval.waiting()):
            rows = (run.teacher, run.begins_with, run.replaces, run.release)
            pictures |= {run.name, *(row.name for row in rows if row is not None)}
        stages = _named_by(wanted) | set(designs.values_list("catalogue", flat=True))
        return cls(stages, pictures)

    def have(self, path: Path) -> bool:
        """Return whether the folder of a stage or of pictures is needed."""
        match = NAME.fullmatch(path.name)
        return path.name in self.stages or (match is not None and match["of"] in self.pictures)


# --- folders of stages and snapshots --------------------------------------------------------------
def _stages(needs: _Needs, now: float) -> list[tuple[Path, str]]:
    """Return folders to delete with the reason, including leftovers of killed processes."""
    root = folders.root()
    known = _named_by(Run.objects.all())
    found = [
        (path, "left by a killed process")
        for path in root.glob(".*")
        if _age(path, now) > SETTLED_DAYS * DAY
    ]
    spare = _unneeded_stages(needs)
    if any(map(_is_being_built, spare)):
        return found
    for path in spare:
        if path.name in known:
            found.append((path, "no run needs it"))
        elif _age(path, now) > UNUSED_DAYS * DAY:
            found.append((path, f"not used for {UNUSED_DAYS:g} days"))
    return found


def _unneeded_stages(needs: _Needs) -> list[Path]:
    """Return the folders of stages that no run needs and that hold no release, whatever their age."""
    places = [releases.folder(release).resolve() for release in Release.objects.all()]
    return [
        path
        for path in sorted(folders.root().iterdir())
        if path.name not in needs.stages
        and _is_stage(path)
        and not any(place.is_relative_to(path.resolve()) for place in places)
    ]


def _named_by(runs: Iterable[Run]) -> set[str]:
    return {name for run in runs for name in (*run.folders.values(), run.catalogue)}


def _is_stage(path: Path) -> bool:
    is_named = NAME.fullmatch(path.name) is not None
    return is_named and path.is_dir() and any((path / mark).exists() for mark in MARKS)


def _held(path: Path) -> AbstractContextManager[bool]:
    """Lock the stage's folder for the context, whose value is False if a process builds it."""
    lock = path / stages.LOCK
    return stages.locked(lock) if lock.is_file() else nullcontext(True)


def _is_being_built(path: Path) -> bool:
    """Return whether a process builds the stage: by hand, if no run needs it. It may depend on any other stage."""
    with _held(path) as is_free:
        return not is_free


# --- pictures -------------------------------------------------------------------------------------
def _pictures(needs: _Needs, now: float) -> list[tuple[Path, str]]:
    """Return folders of releases' images that no evaluation will need again, with the reason."""
    known = set(Run.objects.values_list("name", flat=True))
    known |= set(Release.objects.values_list("name", flat=True))
    found = []
    for path in sorted((folders.root() / "pictures").glob("*")):
        match = NAME.fullmatch(path.name)
        if match is None or match["of"] in needs.pictures:
            continue
        days = SETTLED_DAYS if match["of"] in known else UNUSED_DAYS
        if _age(path, now) > days * DAY:
            found.append((path, f"no evaluation needs images of {match['of']}"))
    return found


def _designs(now: float) -> list[tuple[Path, str]]:
    """Return folders of designs' stages that have not been used for long. Their results are kept as reports."""
    root = folders.root() / "designs"
    if not root.is_dir():
        return []
    return [
        (path, f"no design has used it for {UNUSED_DAYS:g} days")
        for path in sorted(root.iterdir())
        if _age(path, now) > UNUSED_DAYS * DAY
    ]


# --- pairs ----------------------------------------------------------------------------------------
def _pairs(wanted: Sequence[Run], now: float, *, is_dry: bool) -> list[Removed]:
    """Delete old pairs of variants in no current catalogue; return them. Pairs are the most expensive to rebuild."""
    root = folders.root()
    old = [
        path
        for path in sorted((root / "pairs").glob("*/*.safetensors"))
        if now - path.stat().st_mtime > UNUSED_DAYS * DAY
    ]
    if not old:
        return []
    try:
        needed = _needed_pairs(wanted)
    except (
        GenerationError, EngineError, TrainingError, DetectorUnusable, OSError, ValueError
    ) as error:  # fmt: skip
        # The needs are unknown, for example while variants wait for their embeddings.
        log.warning("pairs_kept", reason=str(error))
        return []
    spare = defaultdict(list)
    for path in old:
        if path.relative_to(root) not in needed:
            spare[path.parent].append(path)
    found = []
    for folder, paths in spare.items():
        size = sum(_size(path) for path in paths)
        found.append(Removed(_place(folder), size, "of variants in no catalogue", len(paths)))
        if not is_dry:
            for path in paths:
                _delete(path)
            if not any(folder.iterdir()):
                folder.rmdir()
    return found


def _needed_pairs(wanted: Sequence[Run]) -> set[Path]:
    """Return the pairs needed by these runs, and by the active catalogue with the next run's recipe. Relative paths."""
    # Imported here because it loads torch: few cleanups get here.
    from distillation.pipeline.stages import Chain
    from distillation.runs import inputs

    root = folders.root()
    found: set[Path] = set()
    asked = []
    for run in wanted:
        place = folders.stage(run, "pairs")
        if place is not None and (place / "pairs.json").is_file():
            summary = json.loads((place / "pairs.json").read_text("utf-8"))
            names = [*summary["files"], *(name for _, name in summary.get("further", ()))]
            found |= {Path(os.path.normpath(f"{place.name}/{name}")) for name in names}
        elif run.catalogue and (root / run.catalogue).is_dir():
            asked.append((run.recipe, inputs.gather(run.teacher, catalogue=root / run.catalogue)))
    recipe = recipe_descriptions.described(settings.DISTILLATION_RECIPE)
    with tempfile.TemporaryDirectory() as scratch:
        teachers = Release.objects.filter(kind=Release.Kind.TEACHER, status=Release.Status.ACTIVE)
        asked += [(recipe, inputs.gather(row, within=Path(scratch))) for row in teachers]
        for description, given in asked:
            chain = Chain(inputs.recipe_of(description), given, name="cleaning")
            found |= set(chain.files_of_pairs())
    return found


# --- files ----------------------------------------------------------------------------------------
def _place(path: Path) -> str:
    return str(path.relative_to(folders.root()))


def _age(path: Path, now: float) -> float:
    """Return the seconds since the last change inside."""
    return now - max((found.st_mtime for found in _within(path)), default=now)


def _size(path: Path) -> int:
    return sum(found.st_size for found in _within(path) if stat.S_ISREG(found.st_mode))


def _within(path: Path) -> Iterator[os.stat_result]:
    """Yield the stat results of the file or folder and of all its content."""
    stalls.progressed()
    for inner in (path, *path.rglob("*")):
        with suppress(FileNotFoundError):  # moved by a running build
            yield inner.lstat()


def _delete(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
