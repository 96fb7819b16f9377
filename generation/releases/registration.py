"""Registration of Stable Diffusion folders and hub ids.

A conversion loads torch, so the web process never imports this module. A release folder needs no conversion.
"""

import re
from pathlib import Path
from typing import TYPE_CHECKING

from django.conf import settings

from generation.engine.errors import ReleaseInvalid
from generation.engine.prompts import prompt_embeds
from generation.engine.release import MANIFEST, Progress
from generation.errors import ReleaseRefused
from generation.models import Release
from generation.releases import lifecycle as releases

if TYPE_CHECKING:
    from generation.engine.importing import Options

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def register(
    source: str,
    *,
    name: str | None = None,
    options: "Options | None" = None,
    on_progress: Progress | None = None,
) -> Release:
    """Register a release folder, a Stable Diffusion folder, or a hub id (owner/name). Raises ReleaseRefused.

    name, options: for a source that is not a release; a release has both in its manifest.
    """
    place = Path(source)
    if (place / MANIFEST).exists():
        if options is not None:
            raise ReleaseRefused(
                f"{source} is already a release, and releases are immutable. Omit the options."
            )
        try:
            prompt_embeds.check(place)
        except ReleaseInvalid as error:
            raise ReleaseRefused(error.detail) from error
        return releases.register(place, name=name, on_progress=on_progress)
    is_hub_id = _HUB_ID.fullmatch(source) and not source.startswith((".", "/"))
    if not place.is_dir() and not is_hub_id:
        raise ReleaseRefused(f"{source} is neither a folder nor a hub id (owner/name).")
    name = name or _name_from(source)
    if Release.objects.filter(name=name).exists():
        raise ReleaseRefused(f"A release named {name} is already registered. Give another --name.")
    target = Path(settings.RELEASES_ROOT) / name
    from generation.engine import hub, importing  # torch and transformers take seconds to import

    try:
        if not place.is_dir():
            place = hub.download(source)
        importing.import_folder(place, target, name=name, options=options, on_progress=on_progress)
    except ReleaseInvalid as error:
        raise ReleaseRefused(error.detail) from error
    except OSError as error:
        raise ReleaseRefused(
            f"{source} could not be copied: {error}. Check free space and permissions of DATA_DIR."
        ) from error
    return releases.register(target, on_progress=on_progress)


def _name_from(source: str) -> str:
    return re.sub(r"[^A-Za-z0-9_-]+", "-", Path(source).resolve().name).strip("-_")[:100]
