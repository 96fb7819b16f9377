"""Arithmetic and refusals of the benchmarks. Their figures are printed, never asserted."""

import os

import pytest

from tests.bench import __main__ as bench
from tests.bench import distilled, processes


def test_steps_that_were_not_run_are_added_to_those_that_were():
    answer = {"seconds": [9.0], "parts": [{"before": 1.0, "step": 2.0, "decoder": 3.0}]}
    assert distilled._of_one(answer, steps=2)["seconds"] == 1 + 50 * 2 + 3
    assert distilled._of_one(answer, steps=50)["seconds"] == 9


def test_a_turn_of_many_pictures_counts_as_its_median():
    parts = [{"U-Net": second, "decoder": 0.0, "file": 0.0} for second in (1.0, 9.0, 2.0)]
    assert distilled._of_many({"seconds": [3.0, 9.5, 4.0], "parts": parts}) == {
        "seconds": 4.0,
        "U-Net": 2.0,
        "decoder": 0.0,
        "file": 0.0,
    }


def test_memory_is_read_of_a_process_and_its_peak_is_no_less():
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
def test_what_cannot_be_measured_is_refused(arguments, words, capsys):
    with pytest.raises(SystemExit):
        bench.main(arguments)
    assert words in capsys.readouterr().err
