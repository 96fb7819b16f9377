"""Serializers of the API: the shapes of requests and responses. The rules are in `generation.jobs.submission`."""

from generation.api.serializers.events import EVENT_ID, EventsQuery
from generation.api.serializers.images import (
    FileQuery,
    ImageDetailSerializer,
    ImageSerializer,
    LinkQuery,
)
from generation.api.serializers.jobs import (
    MAX_WAIT_SECONDS,
    JobQuery,
    JobRequestSerializer,
    JobSerializer,
    WaitQuery,
)
from generation.api.serializers.problems import ProblemSerializer
from generation.api.serializers.releases import ReleaseQuery, ReleaseSerializer
from generation.api.serializers.shapes import (
    MAX_PAGE,
    NoQuery,
    PageQuery,
    Strict,
    absolute,
    query,
    url,
)
from generation.api.serializers.variants import VariantQuery, VariantSerializer

__all__ = [
    "EVENT_ID",
    "MAX_PAGE",
    "MAX_WAIT_SECONDS",
    "EventsQuery",
    "FileQuery",
    "ImageDetailSerializer",
    "ImageSerializer",
    "JobQuery",
    "JobRequestSerializer",
    "JobSerializer",
    "LinkQuery",
    "NoQuery",
    "PageQuery",
    "ProblemSerializer",
    "ReleaseQuery",
    "ReleaseSerializer",
    "Strict",
    "VariantQuery",
    "VariantSerializer",
    "WaitQuery",
    "absolute",
    "query",
    "url",
]
