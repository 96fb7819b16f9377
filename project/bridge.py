"""Calls of Django's WSGI application on a pool of threads, with complete requests and complete answers.

A thread never waits for a client. asgiref builds the WSGI environ.
"""

import asyncio
import contextvars
from collections.abc import Callable, Iterable, MutableMapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from asgiref.wsgi import WsgiToAsgiInstance

from project.answers import Answer
from project.bodies import Body

Scope = MutableMapping[str, Any]
Application = Callable[..., Iterable[bytes]]
T = TypeVar("T")


class Bridge:
    """A WSGI application and its threads. Requests wait in the event loop for a free thread.

    busy: number of busy threads. ended: number of calls that have ended.
    """

    def __init__(self, application: Application, *, threads: int, name: str = "django") -> None:
        self._application = application
        self.threads = threads
        self.busy = self.ended = 0
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix=name)
        self._free = asyncio.Semaphore(threads)

    async def __call__(
        self, scope: Scope, body: Body, *, is_gone: Callable[[], bool] = lambda: False
    ) -> Answer:
        """Return the application's answer. is_gone: called on the thread; returns whether the client disconnected."""
        return await self.run(self._call, scope, body, is_gone)

    async def run(self, function: Callable[..., T], *arguments: Any) -> T:
        """Call the function on a thread and return its result."""
        await self._free.acquire()
        self.busy += 1
        call = asyncio.get_running_loop().run_in_executor(
            self._pool, contextvars.copy_context().run, function, *arguments
        )
        call.add_done_callback(self._release)
        return await asyncio.shield(call)  # cancelling the caller does not stop the thread

    def _release(self, _: Any) -> None:
        self.busy -= 1
        self.ended += 1
        self._free.release()

    def _call(self, scope: Scope, body: Body, is_gone: Callable[[], bool]) -> Answer:
        if is_gone():
            return Answer(503)
        instance = WsgiToAsgiInstance(self._application, duplicate_header_limit=0)
        instance.scope = scope
        environ = instance.build_environ(scope, body.file)
        environ["asgi.scope"] = scope
        if body.size:  # chunked bodies have no Content-Length
            environ["CONTENT_LENGTH"] = str(body.size)
        status, headers = "500 ", list[tuple[str, str]]()
        parts: list[bytes] = []

        def start_response(
            line: str, named: list[tuple[str, str]], exc_info: Any = None
        ) -> Callable[[bytes], None]:
            nonlocal status, headers
            status, headers = line, named
            return parts.append

        result = self._application(environ, start_response)
        try:
            parts.extend(result)
        finally:
            getattr(result, "close", lambda: None)()
        return Answer.of(status, headers, b"".join(parts))
