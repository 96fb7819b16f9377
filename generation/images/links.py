"""Signed links to image files. The signature is the permission, so browsers and CDNs need no key.

A link to the thumbnail is not valid for the file, and vice versa.
"""

import math
import time
from functools import cache, lru_cache
from uuid import UUID

from django.conf import settings
from django.core.signing import BadSignature, Signer
from django.urls import reverse

from generation.errors import LinkExpired, LinkInvalid
from generation.models import Image

# Names of routes.
FILE, THUMBNAIL, VARIANT_IMAGE = "image-file", "image-thumbnail", "variant-image"
_SALTS = {
    FILE: "retort.image",
    THUMBNAIL: "retort.thumbnail",
    VARIANT_IMAGE: "retort.variant-image",
}


def image_path(image_id: UUID) -> str:
    """Return path and query of the image's file, valid for LINK_SECONDS or a little longer.

    The expiry is rounded up, so that a link stays equal for a while and can be cached.
    """
    return _path(FILE, image_id)


def thumbnail_path(image_id: UUID) -> str:
    """Return path and query of the image's thumbnail."""
    return _path(THUMBNAIL, image_id)


def variant_image_path(image_id: UUID) -> str:
    """Return path and query of a variant image."""
    return _path(VARIANT_IMAGE, image_id)


def file_name(image: Image) -> str:
    """Return a name for downloads of the image, made from its prompt variant and seed."""
    return f"{image.job.variant.slug}-{image.seed}.{image.format}"


def _path(to: str, image_id: UUID) -> str:
    step = max(1, settings.LINK_SECONDS // 24)
    expires = math.ceil((time.time() + settings.LINK_SECONDS) / step) * step
    shown = str(image_id)
    signature = _signer(to, settings.SECRET_KEY, ()).signature(f"{shown}:{expires}")
    before, after = around(to)
    return f"{before}{shown}{after}?expires={expires}&signature={signature}"


def check(image_id: UUID, expires: str, signature: str, *, to: str = FILE) -> int:
    """Return the seconds until the link expires. Raises LinkInvalid and LinkExpired."""
    try:
        signer = _signer(to, settings.SECRET_KEY, tuple(settings.SECRET_KEY_FALLBACKS))
        signer.unsign(f"{image_id}:{expires}:{signature}")
    except BadSignature as error:
        raise LinkInvalid(
            "The link is incomplete or was changed. Read the job or the image again to get a new one."
        ) from error
    left = int(expires) - time.time()
    if left <= 0:
        raise LinkExpired("Read the job or the image again to get a new link.")
    return int(left)


# Both functions are cached: they take longer than the signature, and a job may have twenty links.
@lru_cache(maxsize=8)
def _signer(to: str, secret_key: str, fallback_keys: tuple[str, ...]) -> Signer:
    return Signer(key=secret_key, fallback_keys=[*fallback_keys], salt=_SALTS[to])


@cache
def around(name: str) -> tuple[str, str]:
    """Return the parts of the route's path before and after the id."""
    placeholder = UUID(int=0)
    before, _, after = reverse(name, args=[placeholder]).partition(str(placeholder))
    return before, after
