"""Fuzzing: no request gets a server error, whatever its body, values, headers, query or path."""

import copy
import json
import logging
import re
from bisect import bisect_left
from collections.abc import Iterator
from typing import Any

import pytest
from django.test import Client
from django.urls import URLPattern, get_resolver

from generation.models import Job
from tests.client import API
from tests.distillation.factories import make_run
from tests.factories import (
    make_embedding,
    make_image,
    make_job,
    make_key,
    make_release,
    make_variant,
)
from tests.web import Web

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("redis_server")]

LONG = "x" * 100_000
BODIES = [
    b"", b"{", b"}", b"[]", b"[1]", b"null", b"true", b"1", b'"text"', b"{}", b"\x00", b"\xff\xfe{\x00}\x00",
    b"\xc3\x28", b'{"prompt": "\xc3\x28"}', "\ufeff{}".encode(), "{}".encode("utf-16"), b'{"prompt": "\\u0000"}',
    b'{"\\u0000": 1}', b'{"prompt": "\\ud800"}', b'{"\\ud800": 1}', b'{"prompt": ["\\udfff"]}',
    b'{"a": {"b": ["\\u0000"]}}', b'{"seed": 1' + b"0" * 5000 + b"}", b'{"seed": 9223372036854775808}',
    b'{"seed": 1e999}', b'{"seed": -1e999}', b'{"seed": NaN}', b'{"seed": Infinity}', b'{"n": 1, "n": 2}',
    b"[" * 100_000, b'{"a":' * 50_000, b'{"a": 1} {"b": 2}', b"{'prompt': 'x'}", b"prompt=x", b'{"prompt": "x",}',
    json.dumps({"prompt": LONG}).encode(), json.dumps({f"name{number}": number for number in range(10_000)}).encode(),
    b"\x80\x04K\x01.",
]  # fmt: skip
CONTENT_TYPES = [
    "application/json", "", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data",
    "multipart/form-data; boundary=", "application/json; charset=\xff", "a/b/c", ";;;", "application/json;;=;", "*/*",
    "application/" + "x" * 10_000,
]  # fmt: skip
VALUES: list[Any] = [
    None, True, False, 0, -1, 1, 2**31, 2**32, 2**53, 2**63 - 1, -(2**63), 0.5, 1e308, "", " ", "\t\n", "0", "-1",
    "1e9", "null", "\u202e", "💥" * 50, LONG, "a" * 300, "a" * 33_000, "%s%n{0}{x}", "' OR 1=1 --", "../../etc/passwd",
    "http://x", "\x7f\x1b[0m", "٣", "³", "64x64", "00064x00064", "99999x99999", "auto", "student", "teacher",
    "2026-01-01", "9999-12-31T23:59:59Z", "0001-01-01T00:00:00+14:00", [], [[]], [None], ["x"] * 1000, {}, {"a": 1},
    {"a": {"b": {}}},
]  # fmt: skip
HEADERS = [
    {"Accept": "application/xml"}, {"Accept": ";q=,,/"}, {"Accept": "*/*;q=x"}, {"Accept": LONG}, {"Accept": "\xff"},
    {"Accept-Language": "\xff" * 100}, {"Accept-Encoding": "\x01"}, {"Cookie": "sessionid=\xff; csrftoken=\x01"},
    {"Cookie": 'sessionid="\\000\\000\\000\\000\\000\\000\\000\\000\\000"'}, {"Cookie": f"sessionid={LONG}"},
    {"Cookie": "messages=x; sessionid=" + "a" * 32}, {"If-None-Match": '"'}, {"If-None-Match": "W/,,*"},
    {"If-Modified-Since": "yesterday"}, {"If-Modified-Since": "Mon, 99 Foo 99999 99:99:99 GMT"},
    {"Range": "bytes=a-"}, {"Prefer": "wait=99999999999999999999"}, {"Prefer": "wait=-1, ;;=,respond-async"},
    {"Prefer": LONG}, {"Prefer": "wait=\xff"}, {"Cancel-After": "1e9"}, {"Cancel-After": "99999999999999999999d"},
    {"Cancel-After": "-1s"}, {"Cancel-After": "٣s"}, {"Idempotency-Key": ""}, {"Idempotency-Key": '"'},
    {"Idempotency-Key": LONG}, {"Idempotency-Key": "\xff"}, {"Idempotency-Key": "'; DROP TABLE x"},
    {"x-stainless-retry-count": "-1"}, {"x-stainless-retry-count": "9" * 5000}, {"x-stainless-retry-count": "³"},
    {"Last-Event-ID": "\xff"}, {"Last-Event-ID": LONG}, {"Last-Event-ID": "0-0-0-end"},
    {"Last-Event-ID": "99999999999999999999-1"}, {"traceparent": "00-x-y-01"}, {"traceparent": LONG},
    {"X-Request-Id": "\xff"}, {"X-Correlation-Id": LONG}, {"X-Forwarded-For": "::::"}, {"X-Forwarded-For": LONG},
    {"X-Forwarded-Host": "a b"}, {"X-Forwarded-Proto": "gopher"}, {"Host": "a b"}, {"Host": "[::"}, {"Host": ""},
    {"Host": "nobody.example"}, {"Host": "\xff"}, {"Host": "localhost:99999999"}, {"Origin": "null"},
    {"Referer": "\xff"}, {"User-Agent": "\xff" * 5000}, {"Authorization": ""}, {"Authorization": "Bearer"},
    {"Authorization": "Bearer \xff"}, {"Authorization": "Bearer rt_"}, {"Authorization": f"Bearer {LONG}"},
    {"Authorization": "Basic Og=="}, {"Authorization": "Token \x00"}, {"Authorization": "Bearer rt_'_'"},
    {"X-HTTP-Method-Override": "DELETE"}, {"Content-Length": "x"}, {"Content-Length": "-1"},
    {"Transfer-Encoding": "chunked"}, {"Expect": "200-ok"}, {"X-Retort-Wait": "{"}, {"X-Retort-Stream": "{"},
    {"X-Retort-Settled": "1"},
]  # fmt: skip
# Valid bodies: one field at a time is replaced, so that the request reaches the code that reads the field.
GOOD: dict[str, dict[str, Any]] = {
    "/v1/predictions": {"input": {"prompt": "a red vase"}, "version": "student-1"}
}
GOOD_ELSEWHERE: dict[str, Any] = {"variant": "red-vase"}
QUERIES = [
    "x=1", "=", "&&&", "%", "%00", "%ff", "%ed%a0%80", "a[]=1", "cursor=x", "cursor=%00", "cursor=cD0lMDA=",
    "cursor=" + "A" * 5000, "cursor=cD0yMDI2", "cursor=bz05OTk5OTk5OTk5OTk5OTk5OTk5OTk=", "cursor=cj0xJnA9eA==",
    "limit=0", "limit=-1", "limit=1e9", "limit=" + "9" * 5000, "limit=%D9%A3", "wait=nan", "wait=inf", "wait=-1",
    "wait=1e400", "q=%00", "q=%ff", "q=" + "x" * 5000, "tag=%00", "tag=,{}", "status=%00", "kind=x", "variant=%00",
    "model=%00", "via=%00", "created_after=x", "created_after=9999-12-31T23:59:59Z",
    "created_before=0001-01-01T00:00:00%2B14:00", "created_after=0000-00-00", "created_after=%00", "expires=9" * 12,
    "expires=1&signature=%ff", "expires=999999999999&signature=x", "format=xml", "format=json", "previews=x",
    "last_event_id=%00", "last_event_id=1-x", "job=x&response_format=url", "text=%00", "text=" + "x" * 5000,
    "size=%00", "n=%00", "n=" + "9" * 5000,
]  # fmt: skip
PATHS = [
    "/v1", "/v1/", "/v1/jobs/", "/v1/jobs/x", "/v1/jobs/%00", "/v1/variants/%ff", "/v1/variants/%00",
    "/v1/releases/..%2f..", "/v1/models/%00", "/v1/models/%ff%fe", "/v1/models/a%2fb", "/v1/models/" + "x" * 5000,
    "/v1/problems/%00", "/v1/problems/x", "/v1/predictions/%00", "/v1/predictions/" + "x" * 5000, "/v1/runs/%00",
    "//v1//jobs", "/v1/images/%00/file", "/%", "/%zz", "/\u202e", "/v1/images/generations/",
    "/v1/images/generations/x", "/v1/images/edits", "/v1/chat/completions",
]  # fmt: skip


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Silence the log, which would get thousands of refusals."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


@pytest.fixture
def ids() -> dict[str, Any]:
    """Values for the parameters of URLs."""
    make_release()
    make_embedding(variant=make_variant(slug="red-vase", text="a red vase"))
    api = API()
    image = make_image(job=make_job(owner=api.owner, status="succeeded"))
    make_job(owner=api.owner, external_id="mine")
    run = make_run()
    return {
        "job_id": image.job_id, "image_id": image.id, "slug": "red-vase", "name": run.name, "code": "not_found",
        "prediction_id": "mine", "owner": "retort", "api": api,
    }  # fmt: skip


def addresses(ids: dict[str, Any]) -> Iterator[tuple[str, set[str]]]:
    """Yield (path, methods) of the whole API."""
    patterns = [
        pattern
        for part in get_resolver().url_patterns
        for pattern in getattr(part, "url_patterns", [part])
    ]
    for pattern in patterns:
        route = str(pattern.pattern)
        if isinstance(pattern, URLPattern) and route.startswith("v1/"):
            for name, converter in pattern.pattern.converters.items():
                kind = type(converter).__name__.removesuffix("Converter").lower()
                route = route.replace(f"<{kind}:{name}>", str(ids.get(name, "student-1")))
            view = getattr(pattern.callback, "cls", None)
            names = view.http_method_names if view else ["get"]
            yield (
                f"/{route}",
                {name.upper() for name in names if view is None or hasattr(view, name)},
            )


def writing(ids: dict[str, Any]) -> list[tuple[str, str]]:
    return [
        (method, path)
        for path, methods in addresses(ids)
        for method in sorted(methods & {"POST", "PUT", "PATCH", "DELETE"})
    ]


class Faults:
    """Collect requests that were answered with 5xx, except those with a Retry-After."""

    def __init__(self, plain: str) -> None:
        self.found: list[str] = []
        self._client = Client(
            raise_request_exception=False, headers={"Authorization": f"Bearer {plain}"}
        )

    def send(
        self,
        method: str,
        path: str,
        body: bytes = b"",
        kind: str = "application/json",
        **headers: str,
    ) -> bytes:
        """Send the request and return the content of the answer."""
        answer = self._client.generic(method, path, body, content_type=kind, headers=headers)
        content = b"".join(answer) if answer.streaming else answer.content
        if answer.status_code >= 500 and b"job_unfinished" not in content:
            self.found.append(
                f"{answer.status_code} {method} {path[:80]} {kind[:40]} {body[:60]!r} {str(headers)[:80]}"
            )
        elif answer.status_code >= 400 and content and "json" in answer["Content-Type"]:
            json.loads(content)
        return content


@pytest.mark.parametrize("share", [4, pytest.param(1, marks=pytest.mark.slow)])
def test_no_body_causes_a_server_error(ids, share: int):
    """Send every share-th body to each route, shifted by one per route: all bodies go through the one parser."""
    faults = Faults(ids["api"].plain)
    for number, (method, path) in enumerate(writing(ids)):
        for body in BODIES[number % share :: share]:
            faults.send(method, path, body)
        for kind in CONTENT_TYPES[number % share :: share]:
            faults.send(method, path, b'{"prompt": "x"}', kind)
            faults.send("GET", f"{path}?x=1", b"{}", kind)
    assert faults.found == []


@pytest.mark.slow
def test_no_value_of_a_field_causes_a_server_error(ids):
    faults = Faults(ids["api"].plain)
    schema = Client().get("/v1/openapi.json").json()
    for path, operations in schema["paths"].items():
        known = re.sub(r"{(\w+)}", lambda found: str(ids.get(found[1], "student-1")), path)
        good = GOOD.get(path, GOOD_ELSEWHERE)
        for method, operation in operations.items():
            for place in fields(schema, operation):
                for value in VALUES:
                    body = json.dumps(merged(good, place, value)).encode()
                    faults.send(method.upper(), known, body)
    assert faults.found == []
    # Requests whose value was valid after all became jobs.
    assert set(Job.objects.values_list("via", flat=True)) >= {"jobs", "openai", "replicate"}


@pytest.mark.parametrize("path", ["/v1/jobs", "/v1/runs"])
def test_no_depth_of_a_body_causes_a_server_error(ids, path: str):
    """A body that the parser just reads was too deep for the code behind it, a few frames further."""
    faults = Faults(ids["api"].plain)

    def is_unreadable(depth: int) -> bool:
        deep = b"[" * depth + b"]" * depth
        if path == "/v1/jobs":
            body = b'{"variant": "x", "webhook_events": ' + deep + b"}"
        else:
            body = b'{"recipe": {"structure": ' + deep + b"}}"
        return b"nested too deeply" in faults.send("POST", path, body)

    first = bisect_left(range(100_000), True, key=is_unreadable)
    assert 40 < first < 100_000
    for depth in (*range(20, 40), *range(first - 20, first + 20)):
        is_unreadable(depth)
    assert faults.found == []


def merged(good: dict[str, Any], place: tuple[str, ...], value: Any) -> dict[str, Any]:
    *outer, name = place
    body = copy.deepcopy(good)
    inner = body
    for part in outer:
        inner = inner.setdefault(part, {})
    inner[name] = value
    return body


@pytest.mark.slow
def test_no_header_causes_a_server_error(ids):
    faults = Faults(ids["api"].plain)
    for path, methods in addresses(ids):
        method = "POST" if "POST" in methods else "GET"
        body = json.dumps(GOOD.get(path, GOOD_ELSEWHERE)).encode()
        for headers in HEADERS:
            faults.send(method, path, body, **headers)
    assert faults.found == []


@pytest.mark.slow
def test_no_query_and_no_path_causes_a_server_error(ids):
    faults = Faults(ids["api"].plain)
    for path, methods in addresses(ids):
        for query in QUERIES:
            faults.send("POST" if "POST" in methods else "GET", f"{path}?{query}", b"{}")
            faults.send("GET", f"{path}?{query}")
        for method in ("HEAD", "OPTIONS", "TRACE", "BREW", "dispatch"):
            faults.send(method, path)
    for path in PATHS:
        for method in ("GET", "POST", "OPTIONS"):
            faults.send(method, path)
    assert faults.found == []


def fields(schema: dict[str, Any], operation: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    """Yield the places of all fields in the body of an operation, by the OpenAPI document."""

    def walk(part: dict[str, Any], at: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
        for known in (part, *part.get("allOf", []), *part.get("oneOf", [])):
            if "$ref" in known:
                known = schema["components"]["schemas"][known["$ref"].rsplit("/", 1)[1]]
            for name, inner in known.get("properties", {}).items():
                yield (*at, name)
                yield from walk(inner, (*at, name))

    body = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
    yield from walk(body.get("schema", {}), ())


# --- over a real connection -----------------------------------------------------------------------
@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize(
    "charset",
    ["zlib", "utf-16", "idna", "nothing", '"', "x; charset*=utf-8''zlib", "x; y *=nothing''z"],
)
def test_an_unknown_charset_causes_no_server_error(web: Web, charset: str):
    headers = {"Content-Type": f"application/json; charset={charset}"}
    headers["Authorization"] = f"Bearer {make_key()[1]}"

    for method in ("GET", "POST"):
        answer = web.http.request(method, "/v1/jobs?x=1", content=b"{}", headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (400, "invalid_request")


@pytest.mark.django_db(transaction=True)
def test_a_chunked_body_arrives_complete_or_is_refused_as_too_large(web: Web):
    make_release()
    make_embedding(variant=make_variant(slug="red-vase", text="a red vase"))
    headers = {
        "Content-Type": "application/json",
        "Authorization": f"Bearer {make_key()[1]}",
    }

    def chunks(filling: int) -> Iterator[bytes]:
        yield b'{"variant": '
        for _ in range(filling):
            yield b" " * 10_000
        yield b'"red-vase"}'

    assert web.http.post("/v1/jobs", content=chunks(1), headers=headers).status_code == 202
    answer = web.http.post("/v1/jobs", content=chunks(300), headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (413, "body_too_large")
