"""Token counts of texts and images for the usage field of OpenAI's API. Nothing is billed by them."""

from functools import lru_cache

import structlog

from generation.engine.errors import ReleaseInvalid
from generation.engine.prompts import tokens
from generation.models import Job, Release
from generation.releases import lifecycle as releases

log = structlog.get_logger(__name__)

PIXELS = 8  # side of the square of pixels that counts as a token: one position of the latents


def of_text(job: Job) -> int:
    """Return the number of tokens with both markers; words if no release on this machine has the tokenizer."""
    return _of_text(job.release_id, job.embedding.text)


@lru_cache(maxsize=4096)
def _of_text(release_id: int, text: str) -> int:
    holder = releases.encoder_holder(Release.objects.get(pk=release_id))
    if holder is not None:
        try:
            return tokens.count_tokens(releases.folder(holder), text)
        except ReleaseInvalid as error:
            log.warning("tokenizer_unreadable", release=holder.name, error=error.detail)
    return len(text.split())


def of_images(job: Job) -> int:
    return job.n * (job.width // PIXELS) * (job.height // PIXELS)
