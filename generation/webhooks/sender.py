"""One signed message to one URL, as Standard Webhooks 1.0.0 has it. Knows no Django and no rows.

A name is looked up once for each connection, and the address that the connection goes to is judged; so a name that
leads elsewhere a moment later gains nothing. No redirect is followed, no proxy is used, little of the answer is read.
"""

import asyncio
import base64
import email.utils
import errno
import hashlib
import hmac
import re
import socket
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import aiohttp
import structlog
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

log = structlog.get_logger(__name__)

SECONDS = 15.0  # for all of it: name, connection, answer
MAX_ANSWER_BYTES = 4096  # read, so that the connection can be used again
LOOKUPS_AT_ONCE = 100
HEADERS = {"Content-Type": "application/json", "User-Agent": "Retort-Webhooks/1"}
# Of its own: a lookup that hangs must not hold up the end of an event loop.
_lookups = ThreadPoolExecutor(LOOKUPS_AT_ONCE, thread_name_prefix="lookup")


@dataclass(frozen=True)
class Message:
    """secrets: whsec_…; each signs."""

    id: str
    url: str
    body: bytes
    secrets: Sequence[str]


@dataclass(frozen=True)
class Answer:
    """status: of HTTP, None without an answer. retry_after: seconds."""

    status: int | None = None
    error: str = ""
    retry_after: float | None = None

    @property
    def is_success(self) -> bool:
        return self.status is not None and 200 <= self.status < 300


def sign(secret: str, message_id: str, timestamp: int, body: bytes) -> str:
    """v1 of the specification: HMAC-SHA256 of id.timestamp.body."""
    key = base64.b64decode(secret.removeprefix("whsec_"))
    signed = b".".join((message_id.encode(), str(timestamp).encode(), body))
    return "v1," + base64.b64encode(hmac.digest(key, signed, hashlib.sha256)).decode()


class Resolver(AbstractResolver):
    """What the system says of a name, in threads that nobody has to wait for."""

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        found = await asyncio.get_running_loop().run_in_executor(
            _lookups, lambda: socket.getaddrinfo(host, port, family, socket.SOCK_STREAM)
        )
        return [
            {
                "hostname": host,
                "host": str(place[0]),
                "port": int(place[1]),
                "family": found_family,
                "proto": protocol,
                "flags": socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
            }
            for found_family, _, protocol, _, place in found
        ]

    async def close(self) -> None:
        pass


class Sender:
    """`async with Sender(may_reach) as sender: await sender.send(message)`. Connections are kept for the next message.

    may_reach: whether a connection to this numeric address may be made.
    """

    def __init__(
        self, may_reach: Callable[[str], bool], *, resolver: AbstractResolver | None = None
    ) -> None:
        self._may_reach = may_reach
        self._resolver = resolver

    async def __aenter__(self) -> "Sender":
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                socket_factory=self._connect,
                resolver=self._resolver or Resolver(),
                use_dns_cache=False,
                limit=0,
            ),
            timeout=aiohttp.ClientTimeout(total=SECONDS),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            skip_auto_headers=("Accept-Encoding",),
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    def _connect(self, address: Any) -> socket.socket:
        family, kind, protocol, _, place = address
        if not self._may_reach(place[0]):
            raise OSError(errno.EACCES, "it leads to an address that is not public")
        return socket.socket(family, kind, protocol)

    async def send(self, message: Message) -> Answer:
        """Never raises but when it is canceled."""
        timestamp = int(time.time())
        signatures = [
            sign(secret, message.id, timestamp, message.body) for secret in message.secrets
        ]
        headers = {
            **HEADERS,
            "webhook-id": message.id,
            "webhook-timestamp": str(timestamp),
            "webhook-signature": " ".join(signatures),
        }
        try:
            return await self._post(URL(message.url, encoded=True), message.body, headers)
        except TimeoutError:
            return Answer(error=f"No answer within {SECONDS:g} s.")
        except aiohttp.ClientConnectorCertificateError as error:
            return Answer(error=f"The certificate is not good: {error.certificate_error}")
        except aiohttp.ClientConnectorDNSError:
            return Answer(error="The name of the host cannot be resolved.")
        except aiohttp.ClientConnectorError as error:
            said = error.os_error.strerror or str(error.os_error)
            return Answer(error=f"No connection: {said}.")
        except (aiohttp.ClientError, OSError, ValueError) as error:
            return Answer(error=f"No answer: {error or type(error).__name__}.")
        except Exception as error:  # whatever a stranger's server makes of us, the others go on
            log.exception("webhook_crashed", delivery_id=message.id)
            return Answer(error=f"No answer: {type(error).__name__}.")

    async def _post(self, url: URL, body: bytes, headers: dict[str, str]) -> Answer:
        async with self._session.post(
            url, data=body, headers=headers, allow_redirects=False
        ) as response:
            answer = Answer(
                response.status,
                _said(response.status),
                retry_after(response.headers.get("Retry-After", "")),
            )
            if answer.is_success:
                await _read(response)
            return answer


async def _read(response: aiohttp.ClientResponse) -> None:
    """A little, whatever goes wrong there: the status has said all."""
    try:
        await response.content.read(MAX_ANSWER_BYTES)
    except (aiohttp.ClientError, OSError, ValueError):
        response.close()


def _said(status: int) -> str:
    if 200 <= status < 300:
        return ""
    if 300 <= status < 400:
        return f"It answered {status}; redirects are not followed."
    return f"It answered {status}."


def retry_after(header: str) -> float | None:
    """Seconds, of the header Retry-After in either form; None for nothing and for what cannot be read."""
    if re.fullmatch(r"\d{1,10}", header):
        return float(header)
    try:
        parsed = email.utils.parsedate_tz(header)
        return max(0.0, email.utils.mktime_tz(parsed) - time.time()) if parsed else None
    except (ValueError, OverflowError, TypeError, IndexError):
        return None
