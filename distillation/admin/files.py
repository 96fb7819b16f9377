"""Files of runs and reports, for staff. The caller checks the permission."""

import mimetypes
from pathlib import Path

from django.http import Http404, HttpRequest, HttpResponse, HttpResponseNotModified

# For our own reports too: no scripts, nothing loaded from elsewhere.
POLICY = "default-src 'none'; img-src 'self' data:; style-src 'unsafe-inline'"


def respond(request: HttpRequest, path: Path | None) -> HttpResponse:
    """Serve the current file: browsers revalidate each time."""
    try:
        content = None if path is None else path.read_bytes()
        changed_ns = 0 if path is None else path.stat().st_mtime_ns
    except OSError:
        content = None
    if path is None or content is None:
        raise Http404
    etag = f'"{changed_ns:x}-{len(content):x}"'
    if request.headers.get("If-None-Match") == etag:
        answer: HttpResponse = HttpResponseNotModified()
    else:
        answer = HttpResponse(content, content_type=mimetypes.guess_type(path.name)[0])
        answer["Content-Security-Policy"] = POLICY
    answer["ETag"] = etag
    answer["Cache-Control"] = "private, no-cache"
    return answer
