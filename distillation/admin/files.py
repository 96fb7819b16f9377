"""Files of runs and reports, for staff. The caller checks the permission."""

import mimetypes
from pathlib import Path

from django.http import Http404, HttpRequest, HttpResponse
from django.utils.cache import get_conditional_response

# For our own reports too: no scripts, nothing loaded from elsewhere.
POLICY = "default-src 'none'; img-src 'self' data:; style-src 'unsafe-inline'"


def respond(request: HttpRequest, path: Path | None) -> HttpResponse:
    """Serve the current file: browsers revalidate each time."""
    if path is None:
        raise Http404
    try:
        content, changed_ns = path.read_bytes(), path.stat().st_mtime_ns
    except OSError as error:
        raise Http404 from error
    headers = {"Content-Security-Policy": POLICY, "Cache-Control": "private, no-cache"}
    kind = mimetypes.guess_type(path.name)[0]
    answer = HttpResponse(content, content_type=kind, headers=headers)
    answer["ETag"] = etag = f'"{changed_ns:x}-{len(content):x}"'
    return get_conditional_response(request, etag=etag, response=answer) or answer
