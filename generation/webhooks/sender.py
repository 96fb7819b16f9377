"""HTTP client that sends one signed message to one URL (Standard Webhooks 1.0.0).

Each connection does one DNS lookup and checks the IP address it connects to, which prevents DNS rebinding. It follows
no redirects, uses no proxy and reads only the beginning of the response.
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

SECONDS = 15.0  # in total: DNS lookup, connection, response
MAX_ANSWER_BYTES = 4096  # how much is read, so that the connection can be reused
LOOKUPS_AT_ONCE = 100
HEADERS = {"Content-Type": "application/json", "User-Agent": "Retort-Webhooks/1"}
# A separate pool: a hanging DNS lookup must not block the shutdown of an event loop.
_lookups = ThreadPoolExecutor(LOOKUPS_AT_ONCE, thread_name_prefix="lookup")


@dataclass(frozen=True)
class Message:
    """A message to send. secrets: whsec_…; it is signed with each."""

    id: str
    url: str
    body: bytes
    secrets: Sequence[str]


@dataclass(frozen=True)
class Answer:
    """Outcome of an attempt. status: HTTP status, None without a response. retry_after: seconds."""

    status: int | None = None
    error: str = ""
    retry_after: float | None = None

    @property
    def is_success(self) -> bool:
        return self.status is not None and 200 <= self.status < 300


def sign(secret: str, message_id: str, timestamp: int, body: bytes) -> str:
    """Return a v1 signature of the specification: HMAC-SHA256 of id.timestamp.body."""
    key = base64.b64decode(secret.removeprefix("whsec_"))
    signed = b".".join((message_id.encode(), str(timestamp).encode(), body))
    return "v1," + base64.b64encode(hmac.digest(key, signed, hashlib.sha256)).decode()


class Resolver(AbstractResolver):
    """Resolver that calls getaddrinfo in a pool of threads."""

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
    """`async with Sender(may_reach) as sender: await sender.send(message)`. Connections are reused.

    may_reach: returns whether connections to an IP address are allowed.
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
            raise OSError(errno.EACCES, "the host name resolves to an address that is not public")
        return socket.socket(family, kind, protocol)

    async def send(self, message: Message) -> Answer:
        """Send a message and return the outcome. Raises nothing except CancelledError."""
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
            return Answer(error=f"No response within {SECONDS:g} s.")
        except aiohttp.ClientConnectorCertificateError as error:
            return Answer(error=f"The TLS certificate is not valid: {error.certificate_error}")
        except aiohttp.ClientConnectorDNSError:
            return Answer(error="The host name cannot be resolved.")
        except aiohttp.ClientConnectorError as error:
            reason = error.os_error.strerror or str(error.os_error)
            return Answer(error=f"The connection failed: {reason}.")
        except (aiohttp.ClientError, OSError, ValueError) as error:
            return Answer(error=f"No response: {error or type(error).__name__}.")
        except Exception as error:  # an error with one receiver must not stop the others
            log.exception("webhook_crashed", delivery_id=message.id)
            return Answer(error=f"No response: {type(error).__name__}.")

    async def _post(self, url: URL, body: bytes, headers: dict[str, str]) -> Answer:
        async with self._session.post(
            url, data=body, headers=headers, allow_redirects=False
        ) as response:
            answer = Answer(
                response.status,
                _error(response.status),
                retry_after(response.headers.get("Retry-After", "")),
            )
            if answer.is_success:
                await _read(response)
            return answer


async def _read(response: aiohttp.ClientResponse) -> None:
    """Read the beginning of the response and ignore errors: only the status matters."""
    try:
        await response.content.read(MAX_ANSWER_BYTES)
    except (aiohttp.ClientError, OSError, ValueError):
        response.close()


def _error(status: int) -> str:
    if 200 <= status < 300:
        return ""
    if 300 <= status < 400:
        return f"The response was {status}; redirects are not followed."
    return f"The response was {status}."


def retry_after(header: str) -> float | None:
    """Parse a Retry-After header in either form to seconds; None if empty or malformed."""
    if re.fullmatch(r"\d{1,10}", header):
        return float(header)
    try:
        parsed = email.utils.parsedate_tz(header)
        return max(0.0, email.utils.mktime_tz(parsed) - time.time()) if parsed else None
    except (ValueError, OverflowError, TypeError, IndexError):
        return None
