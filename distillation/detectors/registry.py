"""The life of a version of the detector: registered → active → retired, and back. Knows no tensors: `detector` does."""

import hashlib
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import structlog
from django.conf import settings
from django.db import IntegrityError, transaction
from django.utils import timezone

from distillation.detector import version as versions
from distillation.detector.errors import DetectorUnusable
from distillation.detector.version import Version
from distillation.errors import DetectorRefused
from distillation.models import Detector

log = structlog.get_logger(__name__)

Status = Detector.Status
STARTER = Path(__file__).resolve().parents[1] / "starter"
# Registered and activated by itself where nobody registered any, so that curation works out of the box.
SHIPPED = STARTER / "detector-2"
STARTER_TEACHER = "starter-teacher"  # the release whose pictures the shipped ones know


# --- registering ----------------------------------------------------------------------------------
def register(source: Path | str) -> Detector:
    """Make a detector's folder known, as a candidate. Raises DetectorRefused.

    A folder inside DATA_DIR/detectors or the package is used where it lies; any other is copied there.
    """
    place = Path(source).resolve()
    version = _read(place)
    _refuse_known(version.name)
    if not (place.is_relative_to(STARTER) or place.is_relative_to(root())):
        place = _copy(place, root() / version.name, version)
    manifest = _manifest(version)
    try:
        with transaction.atomic():
            detector = Detector.objects.create(
                name=version.name,
                path=_stored_path(place),
                manifest=manifest,
                manifest_sha256=_digest(manifest),
            )
    except IntegrityError:  # registered by somebody else while we were copying
        _refuse_known(version.name)
        raise
    log.info("detector_registered", detector=detector.name, path=detector.path)
    return detector


def root() -> Path:
    """Where the versions lie that the project did not ship."""
    return (Path(settings.DATA_DIR) / "detectors").resolve()


def _refuse_known(name: str) -> None:
    if Detector.objects.filter(name=name).exists():
        raise DetectorRefused(
            f"A detector named {name} is registered already, and a version does not change. "
            "Give the new one another name."
        )


def _read(place: Path) -> Version:
    try:
        return versions.read(place)
    except DetectorUnusable as error:
        raise DetectorRefused(str(error)) from error


def _copy(place: Path, target: Path, version: Version) -> Path:
    """What the version names, nothing else that may lie there."""
    if target.exists():
        raise DetectorRefused(
            f"{target} exists already but is not registered. Register that folder, or remove it."
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".registering-", dir=target.parent) as temporary:
        copied = Path(temporary) / target.name
        names = [file.path for file in version.files]
        names += [versions.MANIFEST] if (place / versions.MANIFEST).is_file() else []
        try:
            for name in names:
                (copied / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(place / name, copied / name)
        except OSError as error:
            raise DetectorRefused(
                f"{place} could not be copied to {target}: {error}. Check the space and the rights of DATA_DIR."
            ) from error
        copied.rename(target)
    return target


def _stored_path(place: Path) -> str:
    """Relative for what the project ships, so that the project may move."""
    base = Path(settings.BASE_DIR).resolve()
    if place.is_relative_to(STARTER) and place.is_relative_to(base):
        return place.relative_to(base).as_posix()
    return str(place)


def _manifest(version: Version) -> dict[str, Any]:
    """As the database gives it back: lists, not tuples."""
    return json.loads(json.dumps(versions.to_dict(version)))


def _digest(manifest: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


# --- looking up -----------------------------------------------------------------------------------
def folder(detector: Detector) -> Path:
    """Where the files lie on this machine."""
    return Path(settings.BASE_DIR) / detector.path  # an absolute path stays as it is


def active() -> Detector | None:
    """The version that judges. Where none was ever registered, the one that the project ships becomes it."""
    found = Detector.objects.filter(status=Status.ACTIVE).first()
    if found is not None or Detector.objects.exists() or not SHIPPED.is_dir():
        return found
    try:
        return activate(register(SHIPPED))
    except DetectorRefused:
        # Another process did the same at this instant; or what is shipped is broken, which is worth hearing.
        found = Detector.objects.filter(status=Status.ACTIVE).first()
        if found is None:
            raise
        return found


def is_shipped(detector: Detector) -> bool:
    """Whether it came with the project, and so knows the pictures of the starter and no others."""
    return folder(detector).resolve().is_relative_to(STARTER)


def named(name: str) -> Detector:
    """Raises DetectorRefused."""
    found = Detector.objects.filter(name=name).first()
    if found is None:
        names = ", ".join(Detector.objects.values_list("name", flat=True)[:20]) or "none"
        raise DetectorRefused(f"There is no detector {name!r}. Registered: {names}.")
    return found


# --- moving ---------------------------------------------------------------------------------------
def activate(detector: Detector) -> Detector:
    """Judge by this version from now on; the active one retires. Verdicts stay. Raises DetectorRefused."""
    place = folder(detector)
    if _digest(_manifest(_read(place))) != detector.manifest_sha256:
        raise DetectorRefused(
            f"{place} was changed after {detector.name} was registered. Restore it from where it came."
        )
    with transaction.atomic():
        # All are locked, in one order, so two activations wait for each other.
        rows = {row.pk: row for row in Detector.objects.select_for_update().order_by("pk")}
        if detector.pk not in rows:
            raise DetectorRefused(f"{detector.name} is not registered any more.")
        following = rows[detector.pk]
        if following.status == Status.ACTIVE:
            return following
        for row in rows.values():
            if row.status == Status.ACTIVE:
                _move(row, Status.RETIRED)
        following.activated_at = timezone.now()
        _move(following, Status.ACTIVE)
    return following


def _move(detector: Detector, status: Detector.Status) -> None:
    """The one place where a status changes; the caller holds the row's lock."""
    before = detector.status
    detector.status = status
    detector.save(update_fields=["status", "activated_at"])
    log.info("detector_moved", detector=detector.name, before=before, after=status)
