"""Views of the OpenAPI schema and of its documentation page, served from local files."""

import functools
import threading
from typing import Any

from django.http import HttpResponse
from drf_spectacular.extensions import OpenApiAuthenticationExtension
from drf_spectacular.generators import SchemaGenerator
from drf_spectacular.renderers import OpenApiJsonRenderer
from drf_spectacular.utils import extend_schema
from drf_spectacular.views import SpectacularJSONAPIView, SpectacularSwaggerSplitView
from rest_framework.request import Request

from generation.api import openapi


class APIKeyScheme(OpenApiAuthenticationExtension):
    target_class = "generation.api.authentication.APIKeyAuthentication"
    name = "apiKey"

    def get_security_definition(self, auto_schema: Any) -> dict[str, str]:
        return {
            "type": "http",
            "scheme": "bearer",
            "description": "API key, made in the admin: rt_…",
        }


class Description(SpectacularJSONAPIView):
    """The OpenAPI document, computed once per process. Its examples name a prompt variant of this server."""

    http_method_names = ["get", "head"]

    @extend_schema(exclude=True)
    def get(self, request: Request, *args: Any, **kwargs: Any) -> HttpResponse:
        document = openapi.with_own_example(_document())
        return HttpResponse(document, content_type=OpenApiJsonRenderer.media_type)


def _document() -> bytes:
    with _guard:  # otherwise each thread would compute it
        return _computed()


@functools.cache
def _computed() -> bytes:
    schema = SchemaGenerator().get_schema(request=None, public=True)
    return OpenApiJsonRenderer().render(schema, renderer_context={})


_guard = threading.Lock()
description = Description.as_view()
# The script is a separate file: the content security policy allows no inline scripts.
page = SpectacularSwaggerSplitView.as_view(url_name="schema", http_method_names=["get", "head"])
