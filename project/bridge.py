"""WSGI application as ASGI application: a2wsgi, with one hand-over from the thread to the loop per small response.

a2wsgi hands over the start and each piece of a response, and its thread waits each time. Large responses are handed
over in pieces as there.
"""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

from a2wsgi.wsgi import WSGIResponder

SEND_QUEUE = 10  # messages of a large response that wait for the client
KEPT_BYTES = 262_144  # a larger response is sent in pieces


class Bridge:
    """The ASGI application. Any: the types of a2wsgi name every message of ASGI, websockets too."""

    def __init__(self, application: Any, *, threads: int) -> None:
        self._application = application
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="django")

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        answer = _Answer(self._application, self._threads, SEND_QUEUE)
        await answer(scope, receive, send)
        for message in answer.kept:
            await send(message)


class _Answer(WSGIResponder):
    """Keeps its messages until they are too large."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.kept: list[Any] = []
        self._bytes = 0
        self._is_large = False

    def send(self, message: Any) -> None:
        """Keep or hand over a message; a2wsgi calls it in the thread of the application."""
        if self._is_large:
            super().send(message)
            return
        self.kept.append(message)
        self._bytes += len(message.get("body", b""))
        if self._bytes > KEPT_BYTES:
            self._is_large = True
            kept, self.kept = self.kept, []
            for one in kept:
                super().send(one)
