"""Django's WSGI application as an ASGI application: a2wsgi, but an answer crosses from its thread to the loop once.

a2wsgi hands over the start and each piece of an answer by itself, and its thread waits each time. What grows large is
handed over piece by piece, as there.
"""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

from a2wsgi.wsgi import WSGIResponder

SEND_QUEUE = 10  # messages of a large answer that wait for the client
KEPT_BYTES = 262_144  # an answer that is larger is sent while it is made


class Bridge:
    """Any: a2wsgi's types name every message of ASGI, those of websockets too."""

    def __init__(self, application: Any, *, threads: int) -> None:
        self._application = application
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="django")

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        answer = _Answer(self._application, self._threads, SEND_QUEUE)
        await answer(scope, receive, send)
        for message in answer.kept:
            await send(message)


class _Answer(WSGIResponder):
    """Keeps its messages until there are too many."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.kept: list[Any] = []
        self._bytes = 0
        self._is_large = False

    def send(self, message: Any) -> None:
        """Called in the thread of the application."""
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
