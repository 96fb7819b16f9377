"""Registration of Stable Diffusion folders and hub ids. Imports torch: the web process never imports this module."""

import re
from pathlib import Path

from django.conf import settings

from generation.engine import importing
from generation.engine.errors import ReleaseInvalid
from generation.engine.importing import Options
from generation.engine.prompts import prompt_embeds
from generation.engine.release import MANIFEST, Progress
from generation.errors import ReleaseRefused
from generation.models import Release
from generation.releases import lifecycle as releases

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def register(
    source: str,
    *,
    name: str | None = None,
    options: Options | None = None,
    on_progress: Progress | None = None,
) -> Release:
    """Register a release folder, a Stable Diffusion folder, or a hub id (owner/name). Raises ReleaseRefused.

    name, options: for a source that is not a release; a release has both in its manifest.
    """
    place = Path(source)
    if (place / MANIFEST).exists():
        if options is not None:
            raise ReleaseRefused(
                f"{source} is a release, and releases are immutable: leave the options out."
            )
        try:
            prompt_embeds.check(place)
        except ReleaseInvalid as error:
            raise ReleaseRefused(error.detail) from error
        return releases.register(place, name=name, on_progress=on_progress)
    try:
        if not place.is_dir():
            place = _download(source)
        name = name or _name_from(source)
        target = Path(settings.RELEASES_ROOT) / name
        if Release.objects.filter(name=name).exists():
            raise ReleaseRefused(
                f"A release named {name} is already registered. Give another --name."
            )
        importing.import_folder(place, target, name=name, options=options, on_progress=on_progress)
    except ReleaseInvalid as error:
        raise ReleaseRefused(error.detail) from error
    return releases.register(target, on_progress=on_progress)


def _download(source: str) -> Path:
    if not _HUB_ID.fullmatch(source) or source.startswith((".", "/")):
        raise ReleaseRefused(f"{source} is neither a folder nor a hub id (owner/name).")
    return importing.download(source)


def _name_from(source: str) -> str:
    return re.sub(r"[^A-Za-z0-9_-]+", "-", Path(source).resolve().name).strip("-_")[:100]
