"""A logged-in user, for tests of the page at /."""

import re
from html import unescape
from typing import Any

from django.test import Client

from tests.factories import make_user


class Person:
    """`person.get("/")`; htmx=True: as the page's script requests a part of it."""

    def __init__(self, *, username: str = "person", **user: Any) -> None:
        self.user = make_user(username=username, **user)
        self.client = Client(raise_request_exception=False)
        self.client.force_login(self.user)

    def get(self, path: str, query: Any = None, *, htmx: bool = False, **headers: str):
        return self.client.get(path, query, headers=_headers(htmx, headers))

    def post(self, path: str, form: Any = None, *, htmx: bool = False, **headers: str):
        return self.client.post(path, form or {}, headers=_headers(htmx, headers))


def _headers(htmx: bool, headers: dict[str, str]) -> dict[str, str]:
    return {**({"HX-Request": "true"} if htmx else {}), **headers}


def html(answer: Any) -> str:
    """Return the HTML of the answer, with single spaces."""
    return unescape(" ".join(answer.content.decode().split()))


def words(answer: Any) -> str:
    """Return the text of the answer, without tags."""
    return " ".join(re.sub(r"<[^>]*>", " ", html(answer)).split())


def checked(answer: Any, name: str) -> list[str]:
    """Return the values of the checked radio buttons or boxes of this name."""
    return [
        match[1]
        for match in re.finditer(
            rf'<input type="(?:radio|checkbox)" name="{name}" value="([^"]*)"[^>]*\schecked',
            html(answer),
        )
    ]


def offered(answer: Any, name: str) -> list[str]:
    """Return the values of all radio buttons or boxes of this name."""
    return re.findall(
        rf'<input type="(?:radio|checkbox)" name="{name}" value="([^"]*)"', html(answer)
    )
