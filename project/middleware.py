"""What every view may rely on of a request, and what our request log leaves out."""

import re
from collections.abc import Callable
from typing import Any

import structlog
from django.http import HttpRequest, HttpResponse
from django_structlog.middlewares import RequestMiddleware

from generation.realtime.hub import REQUEST_ID, SHELL

log = structlog.get_logger(__name__)

_CHARSET = re.compile(r";\s*charset\s*=[^;]*", re.IGNORECASE)


def in_utf8(application: Callable[..., Any]) -> Callable[..., Any]:
    """Of WSGI: texts are UTF-8, whatever charset a request names. Django would take one that is none, such as zlib,

    while it makes the request, where no handler of errors is yet.
    """

    def wrapped(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        if "CONTENT_TYPE" in environ:
            environ["CONTENT_TYPE"] = _CHARSET.sub("", environ["CONTENT_TYPE"])
        return application(environ, start_response)

    return wrapped


class RequestLog(RequestMiddleware):
    """One line a request, without its query: the signature of an image's link is a secret."""

    @classmethod
    def bind_ip(cls, request: HttpRequest) -> None:
        """The address that the server knows: any client may write another one into a header."""
        structlog.contextvars.bind_contextvars(ip=request.META.get("REMOTE_ADDR"))

    def prepare(self, request: HttpRequest) -> None:
        super().prepare(request)
        if request_id := request.META.get("asgi.scope", {}).get(REQUEST_ID):
            structlog.contextvars.bind_contextvars(request_id=request_id)

    def handle_response(self, request: HttpRequest, response: HttpResponse) -> None:
        # The shell asks for somebody who waits, over and over: that request has had its line.
        if request.META.get("asgi.scope", {}).get(SHELL) and response.status_code < 400:
            log.debug(
                "request_finished", code=response.status_code, request=self.format_request(request)
            )
            structlog.contextvars.clear_contextvars()
            return
        super().handle_response(request, response)

    @staticmethod
    def format_request(request: HttpRequest) -> str:
        return f"{request.method} {request.path}"
