"""Django's application on its threads: it gets a complete request and returns a complete answer."""

import asyncio
import threading
from collections.abc import Callable, Iterable
from io import BytesIO
from typing import Any

import pytest

from generation.realtime.hub import HEADER, SETTLED, Wait
from project.answers import Answer
from project.bodies import Body
from project.bridge import Bridge

SCOPE = {
    "type": "http",
    "http_version": "1.1",
    "method": "POST",
    "path": "/ä",
    "query_string": b"a=1",
    "headers": [(b"host", b"localhost"), (b"content-length", b"7")],
}


def answered(application: Callable[..., Iterable[bytes]], body: bytes = b"") -> Answer:
    async def ask() -> Answer:
        return await Bridge(application, threads=1)(SCOPE, Body(BytesIO(body), len(body)))

    return asyncio.run(ask())


def test_an_answer_is_returned_when_it_is_complete():
    closed = []

    class Parts(list[bytes]):
        def close(self) -> None:
            closed.append(True)

    def application(environ: Any, start_response: Any) -> Iterable[bytes]:
        write = start_response("201 Created", [("X-Said", "yes")])
        write(b"a")
        return Parts([b"b", b"", b"c" * 1_000_000])

    answer = answered(application)

    assert (answer.status, answer.headers) == (201, [(b"x-said", b"yes")])
    assert answer.body == b"ab" + b"c" * 1_000_000
    assert closed == [True]


def test_the_application_gets_the_whole_request():
    found: dict[str, Any] = {}

    def application(environ: Any, start_response: Any) -> Iterable[bytes]:
        found.update(environ, content=environ["wsgi.input"].read())
        start_response("200 OK", [])
        return []

    answered(application, b"content")

    names = ("REQUEST_METHOD", "PATH_INFO", "QUERY_STRING", "CONTENT_LENGTH", "HTTP_HOST")
    assert [found[name] for name in names] == ["POST", "/Ã¤", "a=1", "7", "localhost"]
    assert (found["content"], found["asgi.scope"]) == (b"content", SCOPE)


def test_internal_headers_are_read_and_removed():
    wait = Wait("channel", ("succeeded",), 1.0, "/then")

    def application(environ: Any, start_response: Any) -> Iterable[bytes]:
        start_response("500 x", [(HEADER, wait.encode()), (SETTLED, "1"), ("X-Other", "1")])
        return []

    answer = answered(application)

    assert (answer.wait, answer.is_settled, answer.headers) == (wait, True, [(b"x-other", b"1")])


def test_an_exception_of_the_application_is_raised():
    def broken(environ: Any, start_response: Any) -> Iterable[bytes]:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        answered(broken)


def test_a_canceled_caller_does_not_free_a_busy_thread():
    release, begun = threading.Event(), threading.Event()

    def application(environ: Any, start_response: Any) -> Iterable[bytes]:
        begun.set()
        release.wait(60)
        start_response("200 OK", [])
        return []

    async def leave() -> None:
        bridge = Bridge(application, threads=1)
        first = asyncio.ensure_future(bridge(SCOPE, Body.empty()))
        await asyncio.to_thread(begun.wait, 60)
        first.cancel()
        second = asyncio.ensure_future(bridge(SCOPE, Body.empty()))
        await asyncio.wait((first, second), timeout=0.1)
        assert (first.cancelled(), second.done(), bridge.busy) == (True, False, 1)

        release.set()
        assert (await second).status == 200
        assert (bridge.busy, bridge.ended) == (0, 2)

    asyncio.run(leave())


def test_a_request_whose_client_left_before_a_thread_was_free_is_dropped():
    def never(environ: Any, start_response: Any) -> Iterable[bytes]:
        raise AssertionError

    async def ask() -> Answer:
        return await Bridge(never, threads=1)(SCOPE, Body.empty(), is_gone=lambda: True)

    assert asyncio.run(ask()).status == 503
