"""OpenAPI document: summaries, groups by resource, and an executable example for each body."""

import json
from typing import Any

import django.db
from drf_spectacular.openapi import AutoSchema
from drf_spectacular.utils import OpenApiExample

from generation.infra import database
from generation.models import PromptVariant
from generation.releases.default_release import Serving

# Path prefix → group of operations; the first match counts. In the order of the page.
GROUPS = (
    ("/v1/images/generations", "OpenAI"),
    ("/v1/models/{owner}", "Replicate"),
    ("/v1/models", "OpenAI"),
    ("/v1/predictions", "Replicate"),
    ("/v1/me", "Account"),
    ("/v1/variants", "Catalogue"),
    ("/v1/jobs", "Jobs"),
    ("/v1/images", "Images"),
    ("/v1/webhooks", "Webhooks"),
    ("/v1/releases", "Releases"),
    ("/v1/queues", "Queues"),
    ("/v1/runs", "Runs"),
    ("/v1/designs", "Designs"),
)
OTHER = "Other"

# A prompt variant of the starter. `with_own_example` replaces it by one of this server.
SLUG, TEXT = "red-glass-vase-table", "a red glass vase on a wooden table"

# Body of an operation by its id.
BODIES: dict[str, Any] = {
    "create_job": {"variant": SLUG},
    "create_images": {"prompt": TEXT},
    "create_prediction": {"input": {"prompt": TEXT}},
    "put_prediction": {"input": {"prompt": TEXT}},
    "create_prediction_of_model": {"input": {"prompt": TEXT}},
    "create_run": {"anew": False},
    "create_design": {"size": "8MB", "quality": "0.97", "wish": "smallest", "hours": 2},
    "create_variant": {"text": "a red clay ball on a glass table", "tags": ["red", "clay", "ball"]},
    "import_variants": {
        "variants": [
            {"text": "a blue clay ball on a glass table", "tags": ["blue", "clay", "ball"]},
            {"text": "a green clay ball on a glass table", "status": "draft"},
        ],
        "dry_run": True,
    },
    "change_variant": {"tags": ["glass", "red", "vase"]},
    "pause_queue": {"reason": "maintenance"},
}


class Operation(AutoSchema):
    def get_summary(self) -> str:
        """Return the first sentence of the description."""
        first, _, _ = self.get_description().partition("\n")
        return first.partition(". ")[0].rstrip(".")

    def get_tags(self) -> list[str]:
        return [next((group for path, group in GROUPS if self.path.startswith(path)), OTHER)]

    def get_examples(self) -> list[OpenApiExample]:
        body = BODIES.get(self.get_operation_id())
        own = [] if body is None else [OpenApiExample("Example", value=body, request_only=True)]
        return [*own, *super().get_examples()]


def with_own_example(document: bytes) -> bytes:
    """Return the rendered document with an active prompt variant of this server, if any, in the examples."""
    active = PromptVariant.objects.filter(status=PromptVariant.Status.ACTIVE)
    try:
        variant = Serving.now().annotated(active).order_by("-is_covered", "slug").first()
    except django.db.Error as error:
        if not database.is_away(error):
            raise
        return document
    if variant is None:
        return document
    for example, own in ((SLUG, variant.slug), (TEXT, variant.text)):
        document = document.replace(_json(example), _json(own))
    return document


def _json(text: str) -> bytes:
    return json.dumps(text, ensure_ascii=False).encode()
