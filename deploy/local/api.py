"""Small client of the project's REST API."""

import json
from http.client import HTTPException
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import quote, urlencode, urljoin
from urllib.request import ProxyHandler, Request, build_opener

from deploy.local.errors import APIError

_opener = build_opener(ProxyHandler({}))  # without a proxy, since the server is local


class API:
    def __init__(self, base_url: str, api_key: str):
        self.base_url = base_url
        self._api_key = api_key

    def get(self, path: str, **query: str | int) -> Any:
        """Return the decoded JSON (or the text) at `path`. Raises APIError."""
        return self._decoded("GET", path + ("?" + urlencode(query) if query else ""))

    def post(self, path: str, content: dict[str, Any]) -> Any:
        return self._decoded("POST", path, json.dumps(content).encode())

    def download(self, link: str) -> bytes:
        """Return the content of a signed link, absolute or relative."""
        body, _ = self._call("GET", link, None)
        return body

    def _decoded(self, method: str, path: str, body: bytes | None = None) -> Any:
        answer, content_type = self._call(method, path, body)
        return json.loads(answer) if "json" in content_type else answer.decode()

    def _call(self, method: str, path: str, body: bytes | None) -> tuple[bytes, str]:
        url = urljoin(self.base_url, quote(path, safe="/:?&=%+,;@~-._!$'()*[]#"))
        headers = {"Authorization": f"Bearer {self._api_key}", "Accept": "application/json, */*"}
        if body is not None:
            headers["Content-Type"] = "application/json"
        try:
            with _opener.open(Request(url, body, headers, method=method), timeout=90) as answer:
                return answer.read(), answer.headers.get("Content-Type", "")
        except HTTPError as error:
            raise _problem(error) from None
        except (URLError, OSError, HTTPException) as error:
            raise APIError(
                f"the web process does not answer ({getattr(error, 'reason', error)})"
            ) from None


def _problem(error: HTTPError) -> APIError:
    text = error.read().decode(errors="replace")
    try:
        content = json.loads(text)
    except ValueError:
        content = {}
    if not isinstance(content, dict):
        content = {}
    # The health endpoint has one entry per component instead of a detail.
    parts = [f"{name}: {part.get('detail', 'not well')}" for name, part in content.items()
             if isinstance(part, dict) and part.get("ok") is False]  # fmt: skip
    detail = content.get("detail") or ", ".join(parts) or content.get("title") or text[:300]
    return APIError(str(detail), content)
