"""Parsing of limits, and refusal of invalid ones."""

import pytest

from distillation.design.limits import LimitRefused, Limits, parse, shown


def test_limits_are_read_with_their_units_and_the_device():
    found, device = parse(size="8MB", time="12ms@cuda:1", memory="1.5 GiB", quality="97%")

    assert found == Limits(8_000_000, 0.012, 1_610_612_736, 0.97)
    assert device == "cuda:1"
    assert parse(time="2s") == (Limits(time=2.0), "auto")
    assert parse() == (Limits(), "auto")


def test_limits_survive_json():
    found, _ = parse(size="8MB", quality="0.97")

    assert Limits.from_json(found.as_json()) == found


@pytest.mark.parametrize(
    ("field", "text", "named"),
    [
        ("size", "8", "MB"),
        ("size", "8 pounds", "MB"),
        ("size", "0MB", "above 0"),
        ("size", "-8MB", "above 0"),
        ("time", "12", "ms"),
        ("time", "12ms@", "@"),
        ("time", "0ms@cpu", "above 0"),
        ("time", "1ms@" + 21 * "a", "at most 20"),
        ("memory", "much", "MB"),
        ("quality", "97", "0.97"),
        ("quality", "0", "above 0"),
        ("quality", "nan", "0.97"),
    ],
)
def test_an_invalid_limit_is_refused_with_its_field_and_the_expected_format(field, text, named):
    with pytest.raises(LimitRefused, match=named) as refused:
        parse(**{field: text})
    assert refused.value.field == field
    assert str(refused.value) == f"{field}: {refused.value.reason}"


def test_values_are_shown_in_the_unit_that_suits_them():
    assert [shown("size", value) for value in (2_680, 8_240_000, 3e9)] == [
        "2.68 kB",
        "8.24 MB",
        "3 GB",
    ]
    assert [shown("time", value) for value in (0.0124, 1.5)] == ["12.4 ms", "1.5 s"]
    assert shown("quality", 0.97) == "0.970"
