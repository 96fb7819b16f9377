"""Request bodies: one JSON object in UTF-8, or an error that names the fault."""

import io
import time

import pytest
from rest_framework.exceptions import APIException

from generation.api.parsers import ImportJSON, StrictJSON


def parse(body: bytes) -> dict:
    return StrictJSON().parse(io.BytesIO(body))


def test_an_object_is_parsed_unchanged():
    body = '{"text": "ä 💥 \\ud83d\\ude00", "n": 2, "x": [1.5, null, true, {"y": ""}]}'

    assert parse(body.encode()) == {
        "text": "ä 💥 😀",
        "n": 2,
        "x": [1.5, None, True, {"y": ""}],
    }
    assert parse(b'{"a": ' + b"[" * 31 + b"]" * 31 + b"}")
    assert parse(b'{"n": 9223372036854775807}') == {"n": 2**63 - 1}


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"[1]", "one JSON object"),
        (b'"text"', "one JSON object"),
        (b"{", "not JSON"),
        (b"", "not JSON"),
        (b'{"a": 1} x', "not JSON"),
        (b'{"a": "\xff"}', "not UTF-8"),
        ('{"a": 1}'.encode("utf-16"), "not UTF-8"),
        (b'{"a": "\\u0000"}', "NUL"),
        (b'{"\\u0000": 1}', "NUL"),
        (b'{"a": {"b": ["\\ud800"]}}', "surrogate"),
        (b'{"a": 9223372036854775808}', "too large"),
        (b'{"a": ' + b"9" * 5000 + b"}", "too large"),
        (b'{"a": 1e999}', "too large"),
        (b'{"a": NaN}', "NaN"),
        (b'{"seed": 1, "seed": 2}', "seed"),
        (b'{"a":' * 100_000, "deeply"),
        (b'{"a":' * 32 + b"{}" + b"}" * 32, "deeper than 32 levels"),
        (b'{"a": ' + b"[" * 32 + b"]" * 32 + b"}", "deeper than 32 levels"),
        (b'{"a": [' + b",".join([b"0"] * 1000) + b"]}", "more than 1000 values"),
    ],
)
def test_bodies_that_cannot_be_stored_are_refused_with_the_reason(body: bytes, reason: str):
    with pytest.raises(APIException, match=reason) as caught:
        parse(body)

    assert caught.value.status_code == 400


def test_the_body_of_an_import_may_have_more_values():
    for count, is_taken in ((1000, True), (99_999, True), (100_000, False)):
        body = io.BytesIO(b'{"a": [' + b",".join([b"0"] * count) + b"]}")
        if is_taken:
            assert len(ImportJSON().parse(body)["a"]) == count
        else:
            with pytest.raises(APIException, match="more than 100000 values"):
                ImportJSON().parse(body)


def test_a_body_of_many_names_is_refused_as_fast_as_it_is_read():
    names = b",".join(b'"%d": 0' % number for number in range(100_000))
    began = time.monotonic()

    for body in (b"{" + names + b"}", b"{" + names + b', "99999": 0}'):
        with pytest.raises(APIException):
            parse(body)

    assert time.monotonic() - began < 10  # comparing all pairs of names takes minutes
