"""Signed links to image files: the signature is the permission, so a browser or a CDN needs no key. Knows no rows.

A link to the thumbnail does not open the file, nor the other way round.
"""

import math
import time
from functools import cache, lru_cache
from uuid import UUID

from django.conf import settings
from django.core.signing import BadSignature, Signer
from django.urls import reverse

from generation.errors import LinkExpired, LinkInvalid

FILE, THUMBNAIL = "image-file", "image-thumbnail"  # names of addresses
_SALTS = {FILE: "retort.image", THUMBNAIL: "retort.thumbnail"}


def image_path(image_id: UUID) -> str:
    """Path and query of the image's file, good for LINK_SECONDS or a little longer.

    The end is rounded up, so that everybody gets the same link for a while and caches can do their work.
    """
    return _path(FILE, image_id)


def thumbnail_path(image_id: UUID) -> str:
    """Likewise of the image's thumbnail."""
    return _path(THUMBNAIL, image_id)


def _path(to: str, image_id: UUID) -> str:
    step = max(1, settings.LINK_SECONDS // 24)
    expires = math.ceil((time.time() + settings.LINK_SECONDS) / step) * step
    shown = str(image_id)
    signature = _signer(to, settings.SECRET_KEY).signature(f"{shown}:{expires}")
    before, after = around(to)
    return f"{before}{shown}{after}?expires={expires}&signature={signature}"


def check(image_id: UUID, expires: str, signature: str, *, to: str = FILE) -> int:
    """Seconds that the link will go on to work. Raises LinkInvalid or LinkExpired."""
    try:
        _signer(to, settings.SECRET_KEY).unsign(f"{image_id}:{expires}:{signature}")
    except BadSignature as error:
        raise LinkInvalid(
            "The link is incomplete or was altered. Read the job or the image again."
        ) from error
    left = int(expires) - time.time()
    if left <= 0:
        raise LinkExpired("Read the job or the image again to get a new link.")
    return int(left)


# Once for all links: both cost more than the signature itself, and a job may have twenty links.
@lru_cache(maxsize=8)
def _signer(to: str, secret_key: str) -> Signer:
    return Signer(key=secret_key, salt=_SALTS[to])


@cache
def around(name: str) -> tuple[str, str]:
    """What stands before and after the id in the path of this name."""
    nobody = UUID(int=0)
    before, _, after = reverse(name, args=[nobody]).partition(str(nobody))
    return before, after
