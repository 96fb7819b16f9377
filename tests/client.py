"""A client of the API with a key, for tests that call the views in this process."""

from typing import Any

from django.test import Client

from tests.factories import EVERY_SCOPE, make_key


class API:
    """`api.get("/v1/jobs")`: requests with the key of `owner`. Problems are returned like other answers."""

    def __init__(self, *, owner=None, scopes=EVERY_SCOPE, **limits: int) -> None:
        self.key, self.plain = make_key(owner=owner, scopes=scopes, **limits)
        self.owner = self.key.owner
        self._client = Client(
            raise_request_exception=False, headers={"Authorization": f"Bearer {self.plain}"}
        )

    def get(self, path: str, query: dict[str, Any] | None = None, **extra: Any):
        return self._client.get(path, query, **extra)

    def post(self, path: str, body: Any = None, **extra: Any):
        return self._client.post(path, body or {}, content_type="application/json", **extra)

    def put(self, path: str, body: Any = None, **extra: Any):
        return self._client.put(path, body or {}, content_type="application/json", **extra)

    def patch(self, path: str, body: Any = None, **extra: Any):
        return self._client.patch(path, body or {}, content_type="application/json", **extra)

    def delete(self, path: str):
        return self._client.delete(path)


def problem(answer, status: int, code: str) -> dict[str, Any]:
    """Assert that the answer is this problem and return its body."""
    assert answer.status_code == status, answer.content
    assert answer["Content-Type"] == "application/problem+json"
    body = answer.json()
    assert (body["status"], body["code"]) == (status, code)
    assert body["title"] and body["detail"]
    return body
