"""What goes in and out over the API, field by field. Shapes only: what is allowed is decided below, in `submission`."""

from generation.serializers.catalogue import VariantQuery, VariantSerializer
from generation.serializers.events import EVENT_ID, EventsQuery
from generation.serializers.images import (
    FileQuery,
    ImageDetailSerializer,
    ImageSerializer,
    LinkQuery,
)
from generation.serializers.jobs import (
    MAX_WAIT_SECONDS,
    JobQuery,
    JobRequestSerializer,
    JobSerializer,
    WaitQuery,
)
from generation.serializers.problems import ProblemSerializer
from generation.serializers.releases import ReleaseQuery, ReleaseSerializer
from generation.serializers.shapes import MAX_PAGE, NoQuery, PageQuery, Strict, absolute, query, url

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
