"""Clients that send or read too slowly or too much, over raw sockets, against the web process under uvicorn.

While they are connected and afterwards, a well-behaved client is answered: by the shell alone (/health/live) and
by a view on one of Django's threads. In between no thread is busy.
"""

import contextlib
import itertools
import resource
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from django.db import connection, transaction
from django.urls import reverse

from project.asgi import HELD_BYTES, LOGINS, LOGINS_AT_ONCE, THREADS
from project.connections import PENDING_BYTES, Connection
from tests.factories import make_key
from tests.web import Web, eventually

MORE_THAN_THREADS = THREADS + 2
LARGE = "/static/drf_spectacular_sidecar/swagger-ui-dist/swagger-ui-bundle.js"  # 1.4 MB
MAX_BYTES = 2_621_440  # DATA_UPLOAD_MAX_MEMORY_SIZE


class ShortDeadlines(Connection):
    """The deployed connection with shorter deadlines."""

    head_seconds = 3.0
    write_seconds = 2.0
    close_seconds = 2.0


@pytest.fixture(scope="module")
def short_deadline_web(django_db_setup, django_db_blocker, tmp_path_factory) -> Iterator[Web]:
    with django_db_blocker.unblock():
        web = Web(
            tmp_path_factory.mktemp("web"),
            connection="tests.test_misbehaving_clients:ShortDeadlines",
        )
    yield web
    web.stop()


_clients: list[socket.socket] = []


@pytest.fixture(autouse=True)
def close_all_clients() -> Iterator[None]:
    yield
    for client in _clients:
        client.close()
    _clients.clear()


def connected(web: Web, sent: bytes = b"", *, window: int = 0) -> socket.socket:
    """Return a connected socket. window: bytes that the client's receive buffer takes without reading."""
    client = socket.socket()
    _clients.append(client)
    if window:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, window)
    client.settimeout(60)
    client.connect(("127.0.0.1", web.port))
    client.sendall(sent)
    return client


def get(path: str, *, last: bool = False) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: localhost\r\n{'Connection: close' if last else 'X: 1'}\r\n\r\n".encode()


def reset(client: socket.socket) -> None:
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()


def assert_others_are_answered(web: Web) -> None:
    with httpx.Client(base_url=web.url, timeout=60) as client:
        assert client.get("/health/live").status_code == 200
        for _ in range(2):
            assert client.get("/v1/problems").status_code == 200
        assert client.post("/login", content=bytes(1_000_000)).status_code == 403  # no token


def has_free_threads(web: Web) -> bool:
    return ready(web)["threads"]["busy"] == 0


def is_closed(client: socket.socket) -> bool:
    """Return whether the server closed the connection; read what it sent."""
    client.settimeout(0.001)
    try:
        while client.recv(1_000_000):
            pass
        return True
    except TimeoutError:
        return False
    except OSError:
        return True


def read_all(client: socket.socket) -> bytes:
    return b"".join(iter(lambda: client.recv(1_000_000), b""))


def assert_threads_stay_free(
    web: Web, clients: list[socket.socket], leave: Callable[[socket.socket], None]
) -> None:
    """Assert that others are answered and threads are free, while these clients are connected and afterwards."""
    assert_others_are_answered(web)
    eventually(lambda: has_free_threads(web))

    for client in clients:
        leave(client)

    assert_others_are_answered(web)
    eventually(lambda: has_free_threads(web))


# --- clients that do not read ---------------------------------------------------------------------
@pytest.mark.parametrize("leave", [socket.socket.close, reset])
def test_pipelined_requests_that_read_nothing_do_not_block_threads(web: Web, leave):
    depths = [*range(1, 11), 2, 5]
    assert len(depths) > THREADS
    clients = [connected(web, get(LARGE) * depth, window=4096) for depth in depths]
    assert_threads_stay_free(web, clients, leave)


@pytest.mark.parametrize("depth", [1, 2, 10])
def test_pipelined_requests_are_answered_in_order(web: Web, depth: int):
    paths = [("/v1/problems", "/health/live", LARGE)[number % 3] for number in range(depth)]
    parts = [get(path, last=number == depth - 1) for number, path in enumerate(paths)]

    heads = read_all(connected(web, b"".join(parts))).split(b"HTTP/1.1 200 ")[1:]

    kinds = {"/v1/problems": b"text/html", "/health/live": b'"ok"', LARGE: b"javascript"}
    assert len(heads) == depth
    assert all(kinds[path] in head[:2000] for path, head in zip(paths, heads, strict=True))


def test_readers_of_a_byte_a_second_do_not_block_threads_and_are_disconnected(
    short_deadline_web: Web,
):
    # More than the system's buffers hold.
    clients = [
        connected(short_deadline_web, get(LARGE) * 5, window=2048) for _ in range(MORE_THAN_THREADS)
    ]
    readers = set(clients)
    assert_others_are_answered(short_deadline_web)
    eventually(lambda: has_free_threads(short_deadline_web))

    def all_were_disconnected() -> bool:
        for client in list(readers):
            try:
                assert client.recv(1)  # also after a reset, from the buffer
                client.send(b"G")
            except OSError:
                readers.discard(client)
        time.sleep(0.5)
        return not readers

    eventually(all_were_disconnected)


# --- clients that do not send ---------------------------------------------------------------------
PATHS = ("/login", "/", "/v1/jobs", "/admin/login/", "/static/x", LARGE)
SIZES = (1, 1000, 1_100_000, MAX_BYTES, MAX_BYTES + 1, 5_000_000)


def form(path: str, size: int, sent: int) -> bytes:
    """Return the beginning of a request with a form of `size` bytes, of which `sent` follow."""
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nCookie: csrftoken={'a' * 32}\r\n"
    head += "Content-Type: application/x-www-form-urlencoded\r\n"
    return f"{head}Content-Length: {size}\r\n\r\n".encode() + b"a" * sent


def half_sent() -> Iterator[bytes]:
    """Yield requests that are cut off in each phase."""
    whole = b"POST /login HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\n"
    yield from (whole[:length] for length in (1, 5, 20, 40, len(whole) - 2, len(whole) - 1))
    for size, path in itertools.product(SIZES, PATHS):
        for sent in {0, size // 2, size - 1}:
            yield form(path, size, min(sent, 300_000))
    # More than a MiB sent, from more connections than threads: the check of the CSRF token reads the form.
    yield from [form("/login", 2_000_000, 1_100_000)] * MORE_THAN_THREADS
    yield b"POST /login HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabc"


@pytest.mark.parametrize("leave", [socket.socket.close, reset])
def test_half_sent_requests_do_not_block_threads(web: Web, leave):
    clients = [connected(web, sent) for sent in half_sent()]
    assert len(clients) > 100
    assert_threads_stay_free(web, clients, leave)


def test_half_sent_bodies_use_a_bounded_amount_of_memory(web: Web):
    """The oldest are dropped for the newest, which may be a well-behaved client's."""
    head = f"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: {MAX_BYTES}\r\n\r\n".encode()
    clients = [connected(web) for _ in range(60)]

    for client in clients:
        client.sendall(head + bytes(2_600_000))

    eventually(lambda: is_closed(clients[0]))
    eventually(lambda: sum(map(is_closed, clients)) >= 60 - HELD_BYTES // 2_600_000)
    assert_others_are_answered(web)


@pytest.mark.parametrize("path", ["/login", "/admin/login/", "/", "/v1/jobs"])
@pytest.mark.parametrize("announced", [True, False])
def test_an_endless_upload_is_refused(web: Web, path: str, announced: bool, tmp_path: Path):
    size = b"Content-Length: 1000000000" if announced else b"Transfer-Encoding: chunked"
    boundary = b"Content-Type: multipart/form-data; boundary=x"
    client = connected(
        web,
        f"POST {path} HTTP/1.1\r\nHost: localhost\r\n".encode()
        + size
        + b"\r\n"
        + boundary
        + b"\r\n\r\n",
    )
    part = b'--x\r\nContent-Disposition: form-data; name="f"; filename="f"\r\n\r\n' + bytes(99_000)
    try:
        for _ in range(10_000):  # a GB
            client.sendall(part if announced else b"%x\r\n%s\r\n" % (len(part), part))
    except OSError:
        pass
    else:
        raise AssertionError("the server took it all")
    assert_others_are_answered(web)


def test_a_refusal_for_size_reaches_a_client_that_sends_everything_first(web: Web):
    answer = httpx.post(f"{web.url}/login", content=bytes(MAX_BYTES + 1), timeout=60)

    assert (answer.status_code, answer.json()["code"]) == (413, "body_too_large")
    assert answer.headers["connection"] == "close"


START = b"POST / HTTP/1.1\r\nHost: localhost\r\n"
CHUNKED = START + b"Transfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    ("first", "again"),
    [
        (b"GET /", b"a" * 10_000),
        (b"GET / HTTP/1.1\r\n", b"A: b\r\n" * 1000),
        (b"GET / HTTP/1.1\r\n", b":\r\n" * 1000),
        (b"GET / HTTP/1.1\r\nA: ", b"b" * 10_000),
        (CHUNKED + b"1\r\na\r\n0\r\n", b"A: b\r\n" * 1000),
        (CHUNKED + b"1\r\na\r\n0\r\nA: ", b"b" * 10_000),
        (CHUNKED + b"1;", b"a" * 10_000),
    ],
    ids=["address", "headers", "empty-headers", "value", "trailers", "trailer", "chunk-extension"],
)
def test_an_endless_head_or_trailer_is_disconnected(web: Web, first: bytes, again: bytes):
    client = connected(web, first)
    with pytest.raises(OSError):
        for _ in range(10_000):  # 60 MB or more
            client.sendall(again)
    assert_others_are_answered(web)


def test_half_sent_heads_use_a_bounded_amount_of_memory(web: Web):
    clients = [connected(web, START + b"A: " + b"a" * 60_000) for _ in range(600)]

    eventually(lambda: sum(map(is_closed, clients)) >= 600 - PENDING_BYTES // 60_000)
    assert_others_are_answered(web)


def test_the_number_of_pipelined_requests_is_bounded(web: Web):
    client = connected(web, get("/v1/problems") * 5000)

    with contextlib.suppress(ConnectionResetError):
        assert read_all(client).count(b"HTTP/1.1 200") <= 20
    assert_others_are_answered(web)


# --- connections ----------------------------------------------------------------------------------
@pytest.mark.slow
def test_two_thousand_idle_connections_block_no_other_client_and_are_closed(
    short_deadline_web: Web,
):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 8192)), hard))
    try:
        clients = [connected(short_deadline_web, b"GET" * (number % 2)) for number in range(2000)]
        assert_others_are_answered(short_deadline_web)
        eventually(lambda: all(map(is_closed, clients)))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


SILENT = {
    "idle": b"",
    "half a head": b"GET / HT",
    "half a body": START + b"Content-Length: 10\r\n\r\nabc",
    "no reading": get(LARGE) * 10,
}


@pytest.mark.parametrize("kind", SILENT)
def test_at_the_limit_of_files_the_longest_idle_connections_are_closed(
    few_files_web: Web, kind: str
):
    clients = [connected(few_files_web, SILENT[kind], window=2048) for _ in range(20)]

    assert_others_are_answered(few_files_web)

    eventually(lambda: is_closed(clients[0]))
    for client in clients:
        client.close()


@pytest.fixture(scope="module")
def few_files_web(django_db_setup, django_db_blocker, tmp_path_factory) -> Iterator[Web]:
    with django_db_blocker.unblock():
        web = Web(
            tmp_path_factory.mktemp("web"), connection="tests.test_misbehaving_clients:FewFiles"
        )
    yield web
    web.stop()


class FewFiles(Connection):
    most = 10


def test_all_kinds_of_bad_clients_at_once_do_not_block_threads(web: Web):
    sent = [get(LARGE) * depth for depth in range(1, 11)]
    sent += [b""] * 200 + list(half_sent()) + [get("/v1/problems") * 10] * 10
    clients = [connected(web, data, window=2048) for data in sent]

    for _ in range(20):
        assert_others_are_answered(web)
    eventually(lambda: has_free_threads(web))

    for number, client in enumerate(clients):
        (reset if number % 2 else socket.socket.close)(client)
    assert_others_are_answered(web)
    eventually(lambda: has_free_threads(web))
    assert "Exception in ASGI application" not in web.log.read_text()


# --- passwords ------------------------------------------------------------------------------------
def test_the_shell_lists_the_pages_that_check_passwords():
    assert {reverse("login"), reverse("admin:login")} == set(LOGINS)


def test_passwords_are_checked_two_at_a_time(web: Web, transactional_db, redis_server):
    """A check takes 100 MiB and a core."""
    seen = []
    token = "t" * 32

    def log_in(number: int) -> int:
        return httpx.post(
            f"{web.url}{LOGINS[number % 2]}",
            data={"username": f"user-{number}", "password": "x", "csrfmiddlewaretoken": token},
            headers={"Cookie": f"csrftoken={token}"},
            timeout=120,
        ).status_code

    with ThreadPoolExecutor(10) as people:
        answers = [people.submit(log_in, number) for number in range(10)]
        while not all(answer.done() for answer in answers):
            seen.append(ready(web)["threads"]["busy"])

    assert {answer.result() for answer in answers} == {200}
    assert max(seen) <= LOGINS_AT_ONCE


# --- a process whose threads hang -----------------------------------------------------------------
@pytest.mark.slow
def test_a_process_whose_threads_hang_reports_it_and_ends(tmp_path: Path, transactional_db):
    """The threads wait for a server: here for a lock in PostgreSQL."""
    web = Web(tmp_path, WEB_STUCK_SECONDS="8", METRICS_TOKEN="token")
    headers = {"Authorization": f"Bearer {make_key()[1]}"}

    def ask() -> None:
        with contextlib.suppress(httpx.HTTPError):
            httpx.get(f"{web.url}/v1/webhooks", headers=headers, timeout=60)

    try:
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute("LOCK TABLE generation_webhookendpoint IN ACCESS EXCLUSIVE MODE")
            asking = [threading.Thread(target=ask) for _ in range(MORE_THAN_THREADS)]
            for thread in asking:
                thread.start()

            eventually(lambda: not ready(web)["threads"]["ok"])
            assert ready(web)["threads"]["busy"] == THREADS
            assert web.http.get("/health/live").status_code == 200
            metrics = web.http.get("/metrics", headers={"Authorization": "Bearer token"}).text
            assert f"retort_web_busy_threads {THREADS}" in metrics

            assert web.process.wait(60) == 70
            for thread in asking:
                thread.join()
        assert "web_stuck" in web.log.read_text()
    finally:
        web.stop()


def ready(web: Web) -> dict[str, Any]:
    return httpx.get(f"{web.url}/health/ready", timeout=60).json()
