"""Signed links to image files: the signature is the permission, so a browser or a CDN needs no key. Knows no rows."""

import math
import time
from uuid import UUID

from django.conf import settings
from django.core.signing import BadSignature, Signer
from django.urls import reverse

from generation.errors import LinkExpired, LinkInvalid

_SALT = "retort.image"


def image_path(image_id: UUID) -> str:
    """Path and query of the image's file, good for LINK_SECONDS or a little longer.

    The end is rounded up, so that everybody gets the same link for a while and caches can do their work.
    """
    step = max(1, settings.LINK_SECONDS // 24)
    expires = math.ceil((time.time() + settings.LINK_SECONDS) / step) * step
    signature = Signer(salt=_SALT).signature(f"{image_id}:{expires}")
    return f"{reverse('image-file', args=[image_id])}?expires={expires}&signature={signature}"


def check(image_id: UUID, expires: str, signature: str) -> int:
    """Seconds that the link will go on to work. Raises LinkInvalid or LinkExpired."""
    try:
        Signer(salt=_SALT).unsign(f"{image_id}:{expires}:{signature}")
    except BadSignature as error:
        raise LinkInvalid(
            "The link is incomplete or was altered. Read the job or the image again."
        ) from error
    left = int(expires) - time.time()
    if left <= 0:
        raise LinkExpired("Read the job or the image again to get a new link.")
    return int(left)
