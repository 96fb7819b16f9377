"""Views of the OpenAPI schema and of its documentation page, served from local files."""

from typing import Any

from drf_spectacular.extensions import OpenApiAuthenticationExtension
from drf_spectacular.views import SpectacularJSONAPIView, SpectacularSwaggerView


class APIKeyScheme(OpenApiAuthenticationExtension):
    target_class = "generation.api.authentication.APIKeyAuthentication"
    name = "apiKey"

    def get_security_definition(self, auto_schema: Any) -> dict[str, str]:
        return {
            "type": "http",
            "scheme": "bearer",
            "description": "API key, made in the admin: rt_…",
        }


description = SpectacularJSONAPIView.as_view()
page = SpectacularSwaggerView.as_view(url_name="schema", http_method_names=["get", "head"])
