"""Life cycle of a release: registered → active or specialist → retired or rejected, and back. Imports no torch."""

import hashlib
import shutil
from pathlib import Path

import structlog
from django.conf import settings
from django.db import transaction
from django.db.models import Q

from generation.access import audit
from generation.engine import release as engine_release
from generation.engine import temporary_folders
from generation.engine.errors import ReleaseInvalid
from generation.engine.release import MANIFEST, Manifest, Progress
from generation.errors import ReleaseNotAvailable, ReleaseRefused
from generation.infra import database, notifications
from generation.models import Release
from generation.releases import coverage

log = structlog.get_logger(__name__)

Status = Release.Status
IN_SERVICE = Q(status__in=Release.SERVED) | Q(canary_percent__gt=0)
STARTER = Path(__file__).resolve().parent.parent / "starter"


# --- registering ----------------------------------------------------------------------------------
def register(
    source: Path | str, *, name: str | None = None, on_progress: Progress | None = None
) -> Release:
    """Register a release folder (one with `release.json`) as a candidate. Raises ReleaseRefused.

    A folder inside RELEASES_ROOT or the package is used in place; any other is copied into RELEASES_ROOT. A call that
    was interrupted can be repeated.
    """
    place = Path(source).resolve()
    manifest = _verified(place, on_progress)
    if name is not None and name != manifest.name:
        raise ReleaseRefused(
            f"A release is immutable, and its manifest has the name {manifest.name}. Register it without a name."
        )
    _refuse_known(manifest.name)
    root = Path(settings.RELEASES_ROOT).resolve()
    if not (place.is_relative_to(STARTER) or place.is_relative_to(root)):
        place = _copy(place, root / manifest.name, on_progress)
    try:
        texts = coverage.read_texts(place, manifest)
    except ReleaseInvalid as error:
        raise ReleaseRefused(error.detail) from error
    facts = engine_release.manifest_to_dict(manifest)
    del facts["covered_variants"]  # stored as rows of Coverage, which can be indexed
    fields = {
        "name": manifest.name,
        "kind": manifest.kind,
        "path": stored_path(place, STARTER),
        "manifest": facts,
        "manifest_sha256": _manifest_sha256(place),
        "encoder_fingerprint": manifest.encoder_fingerprint,
        "has_encoder": manifest.has_encoder,
        "covers_all": not manifest.covered_variants,
        "size_bytes": sum(file.size_bytes for file in manifest.files),
    }
    with transaction.atomic():
        release, created = Release.objects.get_or_create(name=manifest.name, defaults=fields)
        if not created:  # another process registered it while this one was hashing
            _refuse_known(manifest.name)
        coverage.write(release, texts)
        audit.record("release_registered", release.name, kind=release.kind)
    log.info("release_registered", release=release.name, kind=release.kind, path=release.path)
    transaction.on_commit(notifications.encode, robust=True)
    return release


def _refuse_known(name: str) -> None:
    if Release.objects.filter(name=name).exists():
        raise ReleaseRefused(
            f"A release named {name} is already registered. Use it, or give another name."
        )


def _copy(place: Path, target: Path, on_progress: Progress | None) -> Path:
    if target.exists():
        copy = target / MANIFEST
        if copy.is_file() and copy.read_bytes() == (place / MANIFEST).read_bytes():
            _verified(target, on_progress)
            return target  # copied by a call that ended before it wrote the row
        raise ReleaseRefused(
            f"{target} already exists but is not registered. Register that folder, or remove it."
        )
    try:
        with temporary_folders.create(target.parent) as temporary:
            copied = temporary / target.name
            shutil.copytree(place, copied, copy_function=shutil.copyfile)
            _verified(copied, on_progress)
            copied.rename(target)
    except OSError as error:
        raise ReleaseRefused(
            f"{place} could not be copied to {target}: {error}. Check free space and permissions of DATA_DIR."
        ) from error
    return target


def stored_path(place: Path, starter: Path) -> str:
    """Return the path to store: relative inside the starter, so that the project can be moved."""
    base = Path(settings.BASE_DIR).resolve()
    if place.is_relative_to(starter) and place.is_relative_to(base):
        return place.relative_to(base).as_posix()
    return str(place)


def _verified(place: Path, on_progress: Progress | None = None, *, hashes: bool = True) -> Manifest:
    try:
        return engine_release.verify(place, on_progress, hashes=hashes)
    except ReleaseInvalid as error:
        raise ReleaseRefused(error.detail) from error


def _manifest_sha256(place: Path) -> str:
    return hashlib.sha256((place / MANIFEST).read_bytes()).hexdigest()


# --- looking up -----------------------------------------------------------------------------------
def folder(release: Release) -> Path:
    """Return the folder of the files on this machine."""
    return Path(settings.BASE_DIR) / release.path  # an absolute path is not changed


def serving() -> list[Release]:
    """Return the active releases in the order of preference: the student, then the teacher."""
    return list(Release.objects.filter(status=Status.ACTIVE).order_by("kind"))


def active(kind: str) -> Release | None:
    return Release.objects.filter(kind=kind, status=Status.ACTIVE).first()


def named(model: str) -> Release:
    """Return the active release of a kind, or the one of this name unless rejected. Raises ReleaseNotAvailable."""
    if model in Release.Kind.values:
        rows = Release.objects.filter(kind=model, status=Status.ACTIVE)
    else:
        rows = Release.objects.filter(name=model).exclude(status=Status.REJECTED)
    release = rows.first()
    if release is None:
        raise not_available(model)
    return release


def not_available(model: str | None) -> ReleaseNotAvailable:
    """Return the error for a model without a release. None: the request named no model."""
    if model is None:
        why = "No release is active. Activate one: manage.py release activate NAME."
    elif model in Release.Kind.values:
        why = f"No {model} is active."
    else:
        why = f"There is no release {model!r}. Give student, teacher or the name of a registered release."
    return ReleaseNotAvailable(why, parameter="model")


def fingerprints_in_use() -> set[str]:
    """Return the fingerprints of the encoders whose embeddings candidates and releases in service need.

    Their files may be missing on this machine.
    """
    needed = Release.objects.filter(Q(status=Status.CANDIDATE) | IN_SERVICE)
    return set(needed.values_list("encoder_fingerprint", flat=True))


def encoders_in_use() -> list[Release]:
    """Return one release with the files of each encoder in use, if there is one.

    A student whose teacher is retired still needs the teacher's encoder; a student with its own embeddings needs none.
    """
    holders: dict[str, Release] = {}
    for release in Release.objects.filter(
        has_encoder=True, encoder_fingerprint__in=fingerprints_in_use()
    ).order_by("-registered_at", "-pk"):
        holders[release.encoder_fingerprint] = release  # the oldest one remains
    return list(holders.values())


def encoder_holder(release: Release) -> Release | None:
    """Return a release, this one if possible, whose folder contains this release's text encoder; None without one."""
    if release.has_encoder:
        return release
    return (
        Release.objects.filter(has_encoder=True, encoder_fingerprint=release.encoder_fingerprint)
        .order_by("registered_at", "pk")
        .first()
    )


def read_manifest(release: Release) -> Manifest:
    """Return the manifest in the release's folder. Raises ReleaseRefused if it differs from the registered one."""
    place = folder(release)
    try:
        manifest = engine_release.read(place)
    except ReleaseInvalid as error:
        raise ReleaseRefused(error.detail) from error
    _compare_manifest(release, place)
    return manifest


def verify(
    release: Release, on_progress: Progress | None = None, *, hashes: bool = True
) -> Manifest:
    """Compare the files with the manifest, and the manifest with the registered one. Return it. Raises ReleaseRefused.

    hashes: False compares names and sizes only.
    """
    place = folder(release)
    manifest = _verified(place, on_progress, hashes=hashes)
    _compare_manifest(release, place)
    return manifest


def _compare_manifest(release: Release, place: Path) -> None:
    if _manifest_sha256(place) != release.manifest_sha256:
        raise ReleaseRefused(
            f"{place / MANIFEST} was changed after {release.name} was registered. Restore it from its source."
        )


# --- changes of status ----------------------------------------------------------------------------
def activate(release: Release, *, reason: str = "") -> Release:
    """Activate this release instead of the active one of its kind, which is retired. Raises ReleaseRefused.

    reason: of an automatic decision, for the audit log.
    """
    verify(release, hashes=False)
    with transaction.atomic():
        # The lock serialises activations.
        rows = {row.pk: row for row in locked(release.kind)}
        if release.pk not in rows:
            raise ReleaseRefused(f"{release.name} is no longer registered.")
        release = rows[release.pk]
        if release.status == Status.ACTIVE:
            return release
        if release.status == Status.REJECTED:
            raise rejected(release)
        current = next((row for row in rows.values() if row.status == Status.ACTIVE), None)
        release.replaced = current
        action = "canary_promoted" if release.canary_percent else "release_activated"
        _exchange(current, release, action, reason=reason)
        transaction.on_commit(notifications.encode, robust=True)
    return release


def rejected(release: Release) -> ReleaseRefused:
    """Return the error for serving a rejected release."""
    return ReleaseRefused(f"{release.name} was rejected. Register a better one.")


def rollback(kind: str, *, expected: Release | None = None) -> Release:
    """Activate the release that the active one of this kind replaced. Raises ReleaseRefused.

    expected: the release that must be the active one; None accepts any.
    """
    with transaction.atomic():
        rows = {row.pk: row for row in locked(kind)}
        current = next((row for row in rows.values() if row.status == Status.ACTIVE), None)
        if current is None:
            raise ReleaseRefused(f"No {kind} is active. Activate a release first.")
        if expected is not None and expected.pk != current.pk:
            raise ReleaseRefused(
                f"{expected.name} is not active; {current.name} is. Roll back {current.name}."
            )
        previous = rows.get(current.replaced_id) if current.replaced_id else None
        if previous is None:
            raise ReleaseRefused(
                f"{current.name} replaced no release that is still registered. Activate a release by name."
            )
        if previous.status == Status.REJECTED:
            raise ReleaseRefused(
                f"{previous.name}, which {current.name} replaced, was rejected. Activate a release by name."
            )
        verify(previous, hashes=False)
        # `previous.replaced` is kept, so that a second rollback goes one release further back.
        _exchange(current, previous, "release_rolled_back")
        transaction.on_commit(notifications.encode, robust=True)
    return previous


def reject(release: Release, *, reason: str = "") -> Release:
    """Reject this release: it is never served. Raises ReleaseRefused while it is active. reason: see `activate`."""
    with transaction.atomic():
        locked = Release.objects.select_for_update().get(pk=release.pk)
        if locked.status == Status.ACTIVE:
            raise ReleaseRefused(f"{locked.name} is active. Activate another first, or roll back.")
        if locked.status != Status.REJECTED:
            action = "canary_withdrawn" if locked.canary_percent else "release_rejected"
            move(locked, Status.REJECTED, action, reason=reason)
    return locked


def begin_canary(release: Release, percent: int) -> Release:
    """Let this release serve a share of the jobs of the active one of its kind. Raises ReleaseRefused."""
    verify(release, hashes=False)
    with transaction.atomic():
        release = check_canary(release, percent, locked(release.kind))
        release.canary_percent, release.canary_started_at = percent, database.now()
        release.save(update_fields=["canary_percent", "canary_started_at"])
        audit.record("canary_begun", release.name, percent=percent)
    log.info("canary_began", release=release.name, percent=percent)
    return release


def check_canary(release: Release, percent: int, rows: list[Release]) -> Release:
    """Return the release's row among the locked rows. Raises ReleaseRefused if it cannot be a canary."""
    if not 1 <= percent <= 99:
        raise ReleaseRefused(f"A canary serves from 1 to 99 % of the jobs, not {percent}.")
    found = next(row for row in rows if row.pk == release.pk)
    others = [row for row in rows if row is not found]
    if found.status not in (Status.CANDIDATE, Status.RETIRED):
        raise ReleaseRefused(
            f"{found.name} is {found.status}; a canary is a candidate or a retired release."
        )
    if not any(row.status == Status.ACTIVE for row in others):
        raise ReleaseRefused(f"No {found.kind} is active. Activate {found.name} instead.")
    for row in others:
        if row.canary_percent:
            raise ReleaseRefused(
                f"{row.name} is the canary. Activate, reject or end it before you start another one."
            )
    return found


def end_canary(release: Release, *, reason: str = "") -> Release:
    """End a canary without changing its status. It still serves the jobs that were assigned to it.

    reason: see `activate`.
    """
    with transaction.atomic():
        trying = Release.objects.filter(pk=release.pk, canary_percent__gt=0)
        if trying.update(canary_percent=0):
            audit.record("canary_ended", release.name, **({"reason": reason} if reason else {}))
    release.refresh_from_db()
    log.info("canary_ended", release=release.name)
    return release


def in_service() -> list[Release]:
    """Return the active releases in the order of `serving`, then canaries, then specialists."""
    rows = Release.objects.filter(IN_SERVICE)
    return list(rows.order_by("status", "kind", "pk"))  # statuses sort alphabetically


def canaries() -> list[Release]:
    return list(Release.objects.filter(canary_percent__gt=0).order_by("pk"))


def locked(kind: str) -> list[Release]:
    """Lock all releases of the kind until the transaction ends, in a fixed order, and return them."""
    return list(Release.objects.select_for_update().filter(kind=kind).order_by("pk"))


def _exchange(
    current: Release | None, following: Release, action: str, *, reason: str = ""
) -> None:
    now = database.now()  # compared with times that other hosts write
    if current is not None:
        current.retired_at = now
        move(current, Status.RETIRED, "release_retired", by=following.name)
    following.activated_at = now
    following.retired_at = None
    replaced = current.name if current else None
    move(following, Status.ACTIVE, action, reason=reason, replaced=replaced)


def move(release: Release, status: Release.Status, action: str, **facts: str | None) -> None:
    """Change the status. Only for this package; the caller has locked the row. action, facts: for the audit log."""
    before = release.status
    release.status = status
    release.canary_percent = 0  # every change of status ends a canary
    release.save(
        update_fields=["status", "activated_at", "retired_at", "replaced", "canary_percent"]
    )
    audit.record(action, release.name, **{name: said for name, said in facts.items() if said})
    log.info("release_moved", release=release.name, kind=release.kind, before=before, after=status)
