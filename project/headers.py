"""Middleware: a default Content-Security-Policy for every response.

Django's own middleware sets the other headers: nosniff, Referrer-Policy, X-Frame-Options, HSTS.
"""

from collections.abc import Callable, Mapping

from django.http import HttpRequest
from django.http.response import HttpResponseBase

from generation.page.responses import image_origin

HEADER = "Content-Security-Policy"
NOTHING = {
    "default-src": "'none'",
    "base-uri": "'none'",
    "form-action": "'none'",
    "frame-ancestors": "'none'",
}
# The pages that explain errors, and Django's own error pages.
PLAIN = NOTHING | {"style-src": "'self' 'unsafe-inline'", "img-src": "'self' data:"}
DOCS = PLAIN | {"script-src": "'self'", "connect-src": "'self'"}
# The admin's theme uses Alpine, which evaluates attributes.
ADMIN = PLAIN | {
    "script-src": "'self' 'unsafe-eval'",
    "font-src": "'self'",
    "connect-src": "'self'",
    "form-action": "'self'",
}
# Third-party templates: django-import-export has an attribute onchange, django-celery-beat an inline script.
EXPORT = ADMIN | {"script-src-attr": "'unsafe-inline'"}
SCHEDULE = ADMIN | {"script-src": "'self' 'unsafe-eval' 'unsafe-inline'"}


def content_security_policy(
    get_response: Callable[[HttpRequest], HttpResponseBase],
) -> Callable[[HttpRequest], HttpResponseBase]:
    def middleware(request: HttpRequest) -> HttpResponseBase:
        response = get_response(request)
        if not response.has_header(HEADER):
            response[HEADER] = _policy(request.path)
        return response

    return middleware


def _policy(path: str) -> str:
    if path.startswith("/admin/"):
        rules = EXPORT if path.endswith("/export/") else ADMIN
        rules = SCHEDULE if path.startswith("/admin/django_celery_beat/") else rules
        return _written(rules | {"img-src": f"'self' data: blob: {image_origin()}".strip()})
    return _DOCS if path == "/v1/docs" else _PLAIN


def _written(rules: Mapping[str, str]) -> str:
    return "; ".join(f"{name} {value}" for name, value in rules.items())


_PLAIN, _DOCS = _written(PLAIN), _written(DOCS)
