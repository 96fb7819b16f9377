"""Rows of the catalogue, releases, jobs, images, workers, access and webhooks. One-row methods only."""

from generation.models.access import (
    APIKey,
    APIKeyManager,
    AuditEntry,
    OwnerLimits,
    OwnerUsage,
    Usage,
)
from generation.models.catalogue import Embedding, PromptVariant
from generation.models.favourites import Favourite
from generation.models.jobs import (
    ERASED,
    NOT_ERASED,
    Attempt,
    IdempotencyKey,
    Image,
    Job,
    PurgedImage,
)
from generation.models.releases import TRIES, TRIES_LIMIT, Coverage, Quality, Release
from generation.models.stock import StockedImage
from generation.models.variant_images import VariantImage
from generation.models.webhooks import Delivery, WebhookEndpoint, WebhookSecret
from generation.models.workers import Queue, Worker

__all__ = [
    "ERASED",
    "NOT_ERASED",
    "TRIES",
    "TRIES_LIMIT",
    "APIKey",
    "APIKeyManager",
    "Attempt",
    "AuditEntry",
    "Coverage",
    "Delivery",
    "Embedding",
    "Favourite",
    "IdempotencyKey",
    "Image",
    "Job",
    "OwnerLimits",
    "OwnerUsage",
    "PromptVariant",
    "PurgedImage",
    "Quality",
    "Queue",
    "Release",
    "StockedImage",
    "Usage",
    "VariantImage",
    "WebhookEndpoint",
    "WebhookSecret",
    "Worker",
]
