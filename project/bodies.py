"""Request bodies, read completely before a thread is taken.

A body has a deadline and a size limit. Staff may upload larger bodies in the admin, which go to a temporary file.
"""

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from io import BytesIO
from tempfile import SpooledTemporaryFile
from typing import IO, Any

from django.conf import settings

from project.memory import Held

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]

BODY_SECONDS = 30.0
UPLOAD_SECONDS = 600.0
FILES_BYTES = 67_108_864
UPLOAD_BYTES = FILES_BYTES + 1_048_576  # with the headers of the parts and the other fields
# How much of a refused body is read: many clients read the response only after they have sent everything.
LINGER_SECONDS = 2.0
LINGER_BYTES = 16_777_216


class Late(Exception):
    """The body did not arrive in time."""


class TooLarge(Exception):
    """The body has more bytes than the route accepts. most: the limit to name."""

    def __init__(self, most: int) -> None:
        super().__init__(most)
        self.most = most


class Gone(Exception):
    """The client disconnected."""


@dataclass(frozen=True)
class Body:
    """A complete body. The caller must close its file."""

    file: IO[bytes]
    size: int

    @classmethod
    def empty(cls) -> "Body":
        return cls(BytesIO(), 0)

    @classmethod
    def withheld(cls, length: int) -> "Body":
        """Return a body with a size and no bytes, for Django to refuse by its size."""
        return cls(BytesIO(), max(length, settings.DATA_UPLOAD_MAX_MEMORY_SIZE + 1))


def announced(scope: Scope) -> int:
    """Return the Content-Length, or 0 without one."""
    for name, value in scope["headers"]:
        if name == b"content-length":
            return int(value) if value.isdigit() else 0
    return 0


async def read(receive: Receive, length: int, held: Held, *, most: int) -> Body:
    """Return the body, in memory. length: as announced. Raises TooLarge, Late and Gone."""
    if length > most:
        raise TooLarge(most)
    body = BytesIO()
    try:
        async with asyncio.timeout(BODY_SECONDS):
            while True:
                content, is_last = await _next(receive)
                if body.tell() + len(content) > most:
                    raise TooLarge(most)
                body.write(content)
                held.add(len(content))
                if is_last:
                    break
    except TimeoutError:
        raise Late from None
    return _rewound(body)


async def read_upload(receive: Receive, length: int, free: AbstractAsyncContextManager) -> Body:
    """Return the body, in a temporary file if it is large. Raises TooLarge, Late and Gone.

    free: semaphore that bounds the concurrent uploads.
    """
    if length > UPLOAD_BYTES:
        raise TooLarge(FILES_BYTES)
    loop = asyncio.get_running_loop()
    body = SpooledTemporaryFile(max_size=settings.DATA_UPLOAD_MAX_MEMORY_SIZE)  # noqa: SIM115
    try:
        async with asyncio.timeout(UPLOAD_SECONDS), free:
            while True:
                content, is_last = await _next(receive)
                if body.tell() + len(content) > UPLOAD_BYTES:
                    raise TooLarge(FILES_BYTES)
                await loop.run_in_executor(None, body.write, content)  # the disk may be slow
                if is_last:
                    return _rewound(body)
    except TimeoutError:
        body.close()
        raise Late from None
    except BaseException:
        body.close()
        raise


async def discard(scope: Scope, receive: Receive) -> None:
    """Read the rest of a refused body for a short time: a reset of the connection would discard the response."""
    if any(name == b"expect" for name, _ in scope["headers"]):
        return  # the client has sent nothing yet
    left, is_last = LINGER_BYTES, False
    try:
        async with asyncio.timeout(LINGER_SECONDS):
            while left > 0 and not is_last:
                content, is_last = await _next(receive)
                left -= len(content)
    except (TimeoutError, Gone):
        pass


async def _next(receive: Receive) -> tuple[bytes, bool]:
    """Return the next bytes, and whether they are the last. Raises Gone."""
    message = await receive()
    if message["type"] == "http.disconnect":
        raise Gone
    return message.get("body", b""), not message.get("more_body", False)


def _rewound(file: Any) -> Body:
    size = file.tell()
    file.seek(0)
    return Body(file, size)
