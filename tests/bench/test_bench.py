"""Arithmetic and refusals of the benchmarks. Their figures are printed, never asserted."""

import os

import pytest

from tests.bench import __main__ as bench
from tests.bench import distilled, processes


def test_the_seconds_of_a_call_are_extrapolated_to_all_steps():
    answer = {"seconds": [9.0], "parts": [{"before": 1.0, "step": 2.0, "decoder": 3.0}]}
    assert distilled._row_of_call(answer, steps=2)["seconds"] == 1 + 50 * 2 + 3
    assert distilled._row_of_call(answer, steps=50)["seconds"] == 9


def test_the_row_of_many_calls_is_their_median():
    parts = [{"U-Net": second, "decoder": 0.0, "file": 0.0} for second in (1.0, 9.0, 2.0)]
    assert distilled._median_row({"seconds": [3.0, 9.5, 4.0], "parts": parts}) == {
        "seconds": 4.0,
        "U-Net": 2.0,
        "decoder": 0.0,
        "file": 0.0,
    }


def test_the_peak_memory_of_a_process_is_at_least_its_resident_memory():
    taken = processes.memory(os.getpid())
    assert taken.resident > 10 * 2**20
    assert taken.peak is None or taken.peak >= taken.resident


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["everything"], "unknown parts: everything"),
        (["distilled", "--rounds", "0"], "at least 1"),
        (["distilled", "--student", "/nowhere"], "name a bundle: --student DIR"),
    ],
)
def test_options_that_cannot_be_measured_are_refused(arguments, words, capsys):
    with pytest.raises(SystemExit):
        bench.main(arguments)
    assert words in capsys.readouterr().err
