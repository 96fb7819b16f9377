"""Responses of Django on their way from a thread to the event loop."""

import asyncio
import threading
from collections.abc import Callable, Iterable
from typing import Any

import pytest

from project import bridge
from project.bridge import Bridge

SCOPE = {
    "type": "http",
    "http_version": "1.1",
    "method": "GET",
    "path": "/",
    "query_string": b"",
    "headers": [],
}


def answered(application: Callable[..., Iterable[bytes]]) -> list[tuple[dict[str, Any], bool]]:
    """Its messages, and whether the application was still at work when each came."""
    at_work = threading.Event()
    found = []

    def watched(environ: Any, start_response: Any) -> Iterable[bytes]:
        at_work.set()
        try:
            yield from application(environ, start_response)
        finally:
            at_work.clear()

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        found.append((message, at_work.is_set()))

    asyncio.run(Bridge(watched, threads=1)(SCOPE, receive, send))
    return found


def saying(parts: list[bytes]) -> Callable[..., Iterable[bytes]]:
    def application(environ: Any, start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", [("X-Said", "yes")])
        yield from parts

    return application


def body(messages: list[tuple[dict[str, Any], bool]]) -> bytes:
    return b"".join(message.get("body", b"") for message, _ in messages)


def test_a_small_answer_crosses_when_it_is_whole():
    messages = answered(saying([b"a", b"b", b"c"]))

    (start, _), *_ = messages
    assert (start["status"], start["headers"]) == (200, [(b"x-said", b"yes")])
    assert body(messages) == b"abc"
    assert not any(was_at_work for _, was_at_work in messages)
    assert not messages[-1][0].get("more_body")


def test_a_large_answer_is_sent_while_it_is_made():
    part = bytes(bridge.KEPT_BYTES // 4)

    messages = answered(saying([part] * 40))

    assert len(body(messages)) == 40 * len(part)
    assert messages[0][0]["type"] == "http.response.start"
    assert sum(was_at_work for _, was_at_work in messages) > 20


def test_what_the_application_raises_comes_out():
    def broken(environ: Any, start_response: Any) -> Iterable[bytes]:
        raise ZeroDivisionError
        yield b""

    with pytest.raises(ZeroDivisionError):
        answered(broken)
