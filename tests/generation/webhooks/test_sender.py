"""Sender of one message: verified with the receivers' library, restricted to allowed IP addresses."""

import asyncio
import base64
import socket
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from aiohttp.abc import AbstractResolver, ResolveResult
from standardwebhooks import Webhook, WebhookVerificationError

from generation.infra import addresses
from generation.webhooks import sender as sending
from generation.webhooks.sender import Answer, Message, Sender, retry_after
from tests.receiver import Receiver, Reply

SECRET = "whsec_" + base64.b64encode(b"1" * 32).decode()
OTHER = "whsec_" + base64.b64encode(b"2" * 32).decode()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as receiver:
        yield receiver


def send(
    url: str,
    *,
    times: int = 1,
    body: bytes = '{"text":"a café"}'.encode(),
    secrets: tuple[str, ...] = (SECRET,),
    may_reach: Callable[[str], bool] = lambda address: True,
    resolver: AbstractResolver | None = None,
) -> list[Answer]:
    async def run() -> list[Answer]:
        async with Sender(may_reach, resolver=resolver) as sender:
            message = Message("msg_1", url, body, secrets)
            return [await sender.send(message) for _ in range(times)]

    return asyncio.run(run())


# --- received requests ----------------------------------------------------------------------------
def test_a_receiver_verifies_a_message_with_the_standard_webhooks_library(receiver):
    (answer,) = send(receiver.url)

    assert (answer.status, answer.is_success, answer.error) == (204, True, "")
    (got,) = receiver.got
    assert got.verified(SECRET) == {"text": "a café"}
    assert got.id == "msg_1"
    assert abs(int(got.headers["webhook-timestamp"]) - time.time()) < 5
    assert got.headers["content-type"] == "application/json"
    with pytest.raises(WebhookVerificationError):
        got.verified(OTHER)


def test_the_signature_equals_that_of_the_library():
    now = datetime.now(UTC)

    ours = sending.sign(SECRET, "msg_1", int(now.timestamp()), b"{}")

    assert ours == Webhook(SECRET).sign("msg_1", now, "{}")


def test_with_two_secrets_a_receiver_can_verify_with_either(receiver):
    send(receiver.url, secrets=(SECRET, OTHER))

    (got,) = receiver.got
    assert got.verified(SECRET) == got.verified(OTHER)
    assert len(got.headers["webhook-signature"].split(" ")) == 2


def test_the_url_is_requested_unchanged(receiver):
    send(f"{receiver.url}/a%2Fb?token=%20x&y=1")

    assert receiver.got[0].path == "/hook/a%2Fb?token=%20x&y=1"


# --- failures -------------------------------------------------------------------------------------
def test_a_redirect_is_a_failure_and_is_not_followed(receiver):
    receiver.reply = Reply(302, {"Location": "/elsewhere"})

    (answer,) = send(receiver.url)

    assert not answer.is_success
    assert answer.error == "The response was 302; redirects are not followed."
    assert [got.path for got in receiver.got] == ["/hook"]


def test_an_error_has_its_status_and_retry_after(receiver):
    receiver.reply = Reply(429, {"Retry-After": "7"})

    assert send(receiver.url) == [Answer(429, "The response was 429.", 7.0)]


def test_a_receiver_that_never_answers_times_out(receiver, monkeypatch):
    monkeypatch.setattr(sending, "SECONDS", 0.3)
    receiver.reply = lambda got: time.sleep(1.5) or Reply()

    (answer,) = send(receiver.url)

    assert answer == Answer(error="No response within 0.3 s.")


def test_only_the_beginning_of_a_long_answer_is_read(receiver):
    receiver.reply = Reply(200, body=b"x" * 50_000_000)
    started = time.monotonic()

    (answer,) = send(receiver.url)

    assert answer.is_success
    assert time.monotonic() - started < 10


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("http://127.0.0.1:9/", "The connection failed: "),
        ("http://nowhere.invalid/", "cannot be resolved"),
        ("http://a..b/", "No response: "),
        ("http://[::1/", "No response: "),
    ],
)
def test_an_unreachable_receiver_is_a_failure_with_the_reason(url: str, reason: str):
    (answer,) = send(url)

    assert (answer.status, answer.is_success) == (None, False)
    assert reason in answer.error


def test_a_server_that_speaks_no_http_is_a_failure():
    with socket.create_server(("127.0.0.1", 0)) as server:
        task = server.getsockname()[1]

        async def talk() -> Answer:
            async def nonsense(reader, writer) -> None:
                writer.write(b"SSH-2.0-whatever\r\n\r\n")
                await writer.drain()
                writer.close()

            listening = await asyncio.start_server(nonsense, sock=server)
            async with listening, Sender(lambda address: True) as sender:
                return await sender.send(
                    Message("m", f"http://127.0.0.1:{task}/", b"{}", (SECRET,))
                )

        answer = asyncio.run(talk())
    assert not answer.is_success
    assert answer.error.startswith("No response: ")


def test_an_untrusted_certificate_is_a_failure(tmp_path):
    import ssl
    import subprocess

    files = ["-keyout", str(tmp_path / "key"), "-out", str(tmp_path / "certificate")]
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost", *files],
        check=True, capture_output=True,
    )  # fmt: skip
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(tmp_path / "certificate", tmp_path / "key")

    async def talk() -> Answer:
        async def ignore(reader, writer) -> None:
            writer.close()

        listening = await asyncio.start_server(ignore, "127.0.0.1", 0, ssl=context)
        port = listening.sockets[0].getsockname()[1]
        async with listening, Sender(lambda address: True) as sender:
            return await sender.send(Message("m", f"https://127.0.0.1:{port}/", b"{}", (SECRET,)))

    assert asyncio.run(talk()).error.startswith("The TLS certificate is not valid: ")


def test_the_proxies_and_netrc_of_the_environment_are_not_used(receiver, monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")

    assert send(receiver.url)[0].is_success


# --- allowed addresses ----------------------------------------------------------------------------
class Names(AbstractResolver):
    """A name server that gives one answer after the other, each a list of addresses."""

    def __init__(self, *answers: list[str]) -> None:
        self.answers = list(answers)
        self.requests = 0

    async def resolve(self, host: str, port: int = 0, family=socket.AF_INET) -> list[ResolveResult]:
        found = self.answers[min(self.requests, len(self.answers) - 1)]
        self.requests += 1
        return [
            ResolveResult(
                hostname=host, host=address, port=port, family=socket.AF_INET, proto=0, flags=0
            )
            for address in found
        ]

    async def close(self) -> None:
        pass


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::ffff:127.0.0.1]", "0x7f.1"])
def test_no_connection_is_made_to_a_private_address_however_it_is_written(receiver, host: str):
    (answer,) = send(f"http://{host}:{receiver.port}/hook", may_reach=addresses.is_public)

    assert (
        answer.error
        == "The connection failed: the host name resolves to an address that is not public."
    )
    assert receiver.got == []


def test_a_name_that_resolves_to_a_private_address_is_refused(receiver):
    (answer,) = send(
        f"http://example.com:{receiver.port}/hook",
        may_reach=addresses.is_public,
        resolver=Names(["127.0.0.1"]),
    )

    assert "not public" in answer.error
    assert receiver.got == []


def test_the_connection_goes_to_the_checked_address_although_the_name_resolves_elsewhere_later():
    """Rebinding: the first answer of the name server is allowed, the second one points to this machine."""
    judged = []

    def may_reach(address: str) -> bool:  # 127.0.0.2 stands for a public address
        judged.append(address)
        return address == "127.0.0.2"

    with Receiver("127.0.0.1") as inside, Receiver("127.0.0.2", inside.port) as outside:
        outside.reply = Reply(
            headers={"Connection": "close"}
        )  # so that each message needs a new connection
        names = Names(["127.0.0.2"], ["127.0.0.1"])
        first, second = send(
            f"http://example.com:{inside.port}/hook", times=2, may_reach=may_reach, resolver=names
        )

        assert first.is_success and len(outside.got) == 1
        assert "not public" in second.error
        assert inside.got == []
    assert judged == ["127.0.0.2", "127.0.0.1"]
    assert names.requests == 2  # once for each connection, not again after the check


def test_only_the_allowed_addresses_of_a_name_are_tried():
    with Receiver("127.0.0.1") as inside, Receiver("127.0.0.2", inside.port) as outside:
        (answer,) = send(
            f"http://example.com:{inside.port}/hook",
            may_reach=lambda address: address == "127.0.0.2",
            resolver=Names(["127.0.0.1", "127.0.0.2"]),
        )

        assert answer.is_success
        assert (len(inside.got), len(outside.got)) == (0, 1)


# --- Retry-After ----------------------------------------------------------------------------------
def test_retry_after_is_seconds_or_a_date():
    later = format_datetime(datetime.now(UTC) + timedelta(seconds=90), usegmt=True)

    assert retry_after("120") == 120
    assert retry_after(later) == pytest.approx(90, abs=2)
    assert retry_after("Wed, 21 Oct 2015 07:28:00 GMT") == 0


@pytest.mark.parametrize(
    "header",
    ["", "soon", "-5", "1.5", "9" * 400, "Wed, 99 Foo 99999 99:99:99 GMT", "Mon, 01 Jan 9999999 00:00:00 GMT"],
)  # fmt: skip
def test_an_invalid_retry_after_is_none(header: str):
    assert retry_after(header) is None
