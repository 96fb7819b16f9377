"""Life cycle of detector versions: registered → active → retired, and back. Imports no torch."""

import hashlib
import json
import shutil
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
from generation.access import audit
from generation.engine import temporary_folders
from generation.releases import lifecycle as releases

log = structlog.get_logger(__name__)

Status = Detector.Status
STARTER = Path(__file__).resolve().parents[1] / "starter"
# Registered and activated automatically if there is no other, so that curation works without setup.
SHIPPED = STARTER / "detector-3"
STARTER_TEACHER = "starter-teacher-2"  # release on whose images the included detectors were trained


# --- registering ----------------------------------------------------------------------------------
def register(source: Path | str) -> Detector:
    """Register a detector's folder as a candidate. Raises DetectorRefused.

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
                path=releases.stored_path(place, STARTER),
                manifest=manifest,
                manifest_sha256=_digest(manifest),
            )
            audit.record("detector_registered", detector.name)
    except IntegrityError:  # a concurrent registration
        _refuse_known(version.name)
        raise
    log.info("detector_registered", detector=detector.name, path=detector.path)
    return detector


def root() -> Path:
    """Return the folder of versions that are not included in the project."""
    return (Path(settings.DATA_DIR) / "detectors").resolve()


def _refuse_known(name: str) -> None:
    if Detector.objects.filter(name=name).exists():
        raise DetectorRefused(
            f"A detector named {name} is already registered, and versions cannot be changed. "
            "Give another name."
        )


def _read(place: Path) -> Version:
    try:
        return versions.read(place)
    except DetectorUnusable as error:
        raise DetectorRefused(str(error)) from error


def _copy(place: Path, target: Path, version: Version) -> Path:
    """Copy the files that the version names, and no others."""
    if target.exists():
        if versions.to_dict(_read(target)) == versions.to_dict(version):
            return target  # copied by a call that ended before it wrote the row
        raise DetectorRefused(
            f"{target} already exists but is not registered. Register that folder, or remove it."
        )
    with temporary_folders.create(target.parent) as temporary:
        copied = temporary / target.name
        names = [file.path for file in version.files]
        names += [versions.MANIFEST] if (place / versions.MANIFEST).is_file() else []
        try:
            for name in names:
                (copied / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(place / name, copied / name)
        except OSError as error:
            raise DetectorRefused(
                f"{place} could not be copied to {target}: {error}. Check free space and permissions of DATA_DIR."
            ) from error
        copied.rename(target)
    return target


def _manifest(version: Version) -> dict[str, Any]:
    """Return the manifest as the database returns it: lists, not tuples."""
    return json.loads(json.dumps(versions.to_dict(version)))


def _digest(manifest: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


# --- looking up -----------------------------------------------------------------------------------
def folder(detector: Detector) -> Path:
    """Return the folder of the files on this machine."""
    return Path(settings.BASE_DIR) / detector.path  # an absolute path stays unchanged


def active() -> Detector | None:
    """Return the active version. If none was ever registered, activate the included one."""
    found = Detector.objects.filter(status=Status.ACTIVE).first()
    if found is not None or Detector.objects.exists() or not SHIPPED.is_dir():
        return found
    try:
        return activate(register(SHIPPED))
    except DetectorRefused:
        # A concurrent process did the same, or the included version is broken.
        found = Detector.objects.filter(status=Status.ACTIVE).first()
        if found is None:
            raise
        return found


def tag_kinds() -> tuple[tuple[str, ...], ...]:
    """Return the groups of mutually exclusive bits of the active version: target of the setting TAG_KINDS."""
    # Without its figures, which are long.
    rows = Detector.objects.filter(status=Status.ACTIVE)
    found = rows.values_list("manifest__bits", "manifest__groups").first()
    if found is None:
        return ()
    return tuple(group for group in versions.grouped(*found) if len(group) > 1)


def can_judge(detector: Detector, teacher: str | None) -> bool:
    """Return whether the version can judge images of this teacher release: the included ones only the starter's."""
    is_shipped = folder(detector).resolve().is_relative_to(STARTER)
    return teacher == STARTER_TEACHER or not is_shipped


def named(name: str) -> Detector:
    """Return the version of this name. Raises DetectorRefused."""
    found = Detector.objects.filter(name=name).first()
    if found is None:
        names = ", ".join(Detector.objects.values_list("name", flat=True)[:20]) or "none"
        raise DetectorRefused(f"There is no detector {name!r}. Registered: {names}.")
    return found


# --- moving ---------------------------------------------------------------------------------------
def activate(detector: Detector) -> Detector:
    """Activate the version and retire the active one. Verdicts stay. Raises DetectorRefused."""
    place = folder(detector)
    if _digest(_manifest(_read(place))) != detector.manifest_sha256:
        raise DetectorRefused(
            f"{place} was changed after {detector.name} was registered. Restore the original files."
        )
    with transaction.atomic():
        # All rows are locked in a fixed order, so that two activations run one after the other.
        rows = {row.pk: row for row in Detector.objects.select_for_update().order_by("pk")}
        if detector.pk not in rows:
            raise DetectorRefused(f"{detector.name} is not registered any more. Register it again.")
        following = rows[detector.pk]
        if following.status == Status.ACTIVE:
            return following
        replaced = [row for row in rows.values() if row.status == Status.ACTIVE]
        for row in replaced:
            _move(row, Status.RETIRED)
        following.activated_at = timezone.now()
        _move(following, Status.ACTIVE)
        facts = {"replaced": replaced[0].name} if replaced else {}
        audit.record("detector_activated", following.name, **facts)
    return following


def _move(detector: Detector, status: Detector.Status) -> None:
    """Change the status; the only place that does. The caller holds the row's lock."""
    before = detector.status
    detector.status = status
    detector.save(update_fields=["status", "activated_at"])
    log.info("detector_moved", detector=detector.name, before=before, after=status)
