"""Bodies of requests: read completely, in time, up to a size; a larger one for staff in the admin."""

import asyncio
from collections.abc import Iterator, Sequence
from http.client import HTTPConnection
from typing import Any

import httpx
import pytest
from django.conf import settings
from django.contrib.auth import get_user_model
from django.test import Client

from project import bodies
from project.memory import Memory
from tests.web import Web

IMPORT = "/admin/generation/promptvariant/import/"
LARGE = 3_000_000


def read(parts: Sequence[bytes | None], length: int = 0) -> bytes:
    """Read the body. parts: in order of arrival; None: the client disconnects; after the last part it is silent."""

    async def begin() -> bytes:
        coming = iter(parts)

        async def receive() -> dict[str, Any]:
            part = next(coming, ...)
            if part is ...:
                await asyncio.sleep(60)
            if part is None:
                return {"type": "http.disconnect"}
            return {"type": "http.request", "body": part, "more_body": part != b""}

        with Memory(1000).hold(None) as held:
            body = await bodies.read(receive, length, held, most=10)
            assert (held.size, body.size) == (body.size, len(body.file.getvalue()))
            return body.file.read()

    return asyncio.run(begin())


def test_a_body_is_read_completely():
    assert read([b"abc", b"defg", b""]) == b"abcdefg"
    assert read([b""]) == b""


def test_a_body_is_refused_by_its_announced_or_its_real_size():
    with pytest.raises(bodies.TooLarge):
        read([], length=11)
    with pytest.raises(bodies.TooLarge):
        read([b"abcdef", b"ghijk"])


def test_a_body_that_does_not_arrive_times_out(monkeypatch):
    monkeypatch.setattr(bodies, "BODY_SECONDS", 0.05)
    with pytest.raises(bodies.Late):
        read([b"abc"])


def test_a_client_that_disconnects_while_sending_is_an_error():
    with pytest.raises(bodies.Gone):
        read([b"abc", None])


def test_the_slowest_sender_is_dropped_to_make_room_unless_its_body_is_complete():
    memory = Memory(100)
    with memory.hold(None) as whole, memory.hold(None) as empty, memory.hold(None) as first:
        whole.add(30)
        whole.keep()
        first.add(40)
        with memory.hold(None) as second:
            second.add(50)
            assert (whole.size, first.size, second.size, memory.size) == (30, 0, 50, 80)
            assert empty.size == 0
        assert memory.size == 30
    assert memory.size == 0


# --- uploads --------------------------------------------------------------------------------------
@pytest.fixture
def sessions(transactional_db) -> Iterator[dict[str, dict[str, str]]]:
    """The session cookies of each kind of user."""
    people = {"staff": True, "other": False}
    cookies: dict[str, dict[str, str]] = {"nobody": {}, "invented": {"sessionid": "a" * 32}}
    for name, is_staff in people.items():
        client = Client()
        user = get_user_model().objects.create_user(name, is_staff=is_staff)
        client.force_login(user)
        cookies[name] = {settings.SESSION_COOKIE_NAME: client.cookies["sessionid"].value}
    yield cookies


@pytest.mark.parametrize(
    ("who", "path", "status"),
    [
        ("staff", IMPORT, 403),  # by Django: the form has no token
        ("staff", "/login", 413),
        ("other", IMPORT, 413),
        ("nobody", IMPORT, 413),
        ("invented", IMPORT, 413),
    ],
)
def test_large_uploads_are_allowed_only_for_staff_and_only_in_the_admin(
    web: Web, sessions, who: str, path: str, status: int
):
    cookies = "; ".join(f"{name}={value}" for name, value in sessions[who].items())

    answer = httpx.post(
        f"{web.url}{path}", files={"f": bytes(LARGE)}, headers={"Cookie": cookies}, timeout=60
    )

    assert answer.status_code == status


def test_an_upload_reaches_the_view_completely(web: Web, sessions):
    """The import of a catalogue of 3 MB."""
    get_user_model().objects.update(is_superuser=True)
    with httpx.Client(base_url=web.url, cookies=sessions["staff"], timeout=120) as client:
        page = client.get(IMPORT)
        rows = "".join(f"v-{number},{number:x} vase,{'x' * 5000}\n" for number in range(600))
        answer = client.post(
            IMPORT,
            data={"csrfmiddlewaretoken": client.cookies["csrftoken"], "format": "0"},
            files={"import_file": ("c.csv", "slug,text,notes\n" + rows + "v-0,again,\n")},
            headers={"Referer": web.url},
        )
    assert page.status_code == answer.status_code == 200
    assert "is already in row" in answer.text  # about the last row


@pytest.mark.parametrize(
    ("who", "accepts", "said"),
    [
        ("staff", "text/html,*/*", "The form is too large: it may send 64 MiB."),
        ("staff", "*/*", '"detail": "Send at most 67108864 bytes."'),
        ("other", "text/html,*/*", "it may send 2.5 MiB."),
    ],
)
def test_uploads_have_a_limit_which_the_refusal_names(
    web: Web, sessions, who: str, accepts: str, said: str
):
    connection = HTTPConnection("127.0.0.1", web.port, timeout=60)
    connection.putrequest("POST", IMPORT)
    connection.putheader("Cookie", f"sessionid={sessions[who]['sessionid']}")
    connection.putheader("Accept", accepts)
    connection.putheader("Content-Length", str(bodies.UPLOAD_BYTES + 1))
    connection.putheader(
        "Expect", "100-continue"
    )  # otherwise the server waits for a part of the body
    connection.endheaders()

    answer = connection.getresponse()

    assert answer.status == 413 and said in answer.read().decode()
    connection.close()


def test_files_of_exactly_the_limit_fit_with_the_rest_of_their_form():
    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"abc"}

    length = bodies.FILES_BYTES + 100 * 500  # with the headers of a hundred parts
    body = asyncio.run(bodies.read_upload(receive, length, asyncio.Semaphore(1)))
    with body.file:
        assert body.size == 3
