"""Request for a job, the common input of `submission` from all interfaces."""

from collections.abc import Sequence
from dataclasses import dataclass

from django.conf import settings

from generation.errors import InvalidRequest
from generation.models import TRIES_LIMIT, APIKey, Job
from generation.webhooks import endpoints as webhooks

MAX_BASE_URL = 200  # characters of the column
SEED_LIMIT = 2**32  # as in other services; fits into an integer of every language


@dataclass(frozen=True, kw_only=True)
class JobRequest:
    """A client's request. Raises InvalidRequest if it is contradictory or out of range.

    Exactly one of variant and text is given. variant: a slug; text: a text of the catalogue, or a similar one unless
    match is False. size: "WIDTHxHEIGHT". model: "student", "teacher" or the name of a release. seed: default random; it
    is stored, so that the image can be repeated. cancel_after: seconds until an unfinished job is canceled.
    external_id: chosen by the client, unique per owner; external_fingerprint: of the request that chose it. base_url:
    URL of this server as the client sees it. webhook: URL that receives the job's events; webhook_events: values of
    Delivery.Event, by default all.
    """

    variant: str | None = None
    text: str | None = None
    match: bool | None = None
    n: int = 1
    seed: int | None = None
    size: str | None = None
    output_format: str = Job.Format.WEBP
    model: str | None = None
    priority: int = 0
    metadata: bool = False
    cancel_after: float | None = None
    external_id: str = ""
    external_fingerprint: str = ""
    api_key: APIKey | None = None
    via: str = Job.Via.JOBS
    base_url: str = ""
    webhook: str | None = None
    webhook_events: Sequence[str] | None = None

    def __post_init__(self) -> None:
        if (self.variant is None) == (self.text is None):
            raise _invalid("Give exactly one of variant and text.", "variant")
        if len(self.base_url) > MAX_BASE_URL:
            raise _invalid("The host name is too long.", "Host")
        if self.text is None and self.match is not None:
            raise _invalid(
                "match is allowed only with text. Remove it: a slug names one variant.", "match"
            )
        if not 1 <= self.n <= settings.MAX_IMAGES_PER_JOB:
            raise _invalid(f"n must be from 1 to {settings.MAX_IMAGES_PER_JOB}, not {self.n}.", "n")
        if self.seed is not None and not 0 <= self.seed <= SEED_LIMIT - self.n:
            raise _invalid(f"seed must be from 0 to {SEED_LIMIT - self.n}.", "seed")
        if self.output_format not in Job.Format.values:
            formats = ", ".join(Job.Format.values)
            raise _invalid(f"output_format must be one of {formats}.", "output_format")
        webhooks.check_events(self.webhook_events)
        if self.webhook is None and self.webhook_events is not None:
            raise _invalid(
                "webhook_events is allowed only with webhook. Add webhook, or remove it.",
                "webhook_events",
            )

    @property
    def largest_fresh_seed(self) -> int:
        """Return the largest random seed, below which the seeds of all images and tries fit."""
        return SEED_LIMIT - self.n * TRIES_LIMIT


def _invalid(detail: str, parameter: str) -> InvalidRequest:
    return InvalidRequest(detail, parameter=parameter)
