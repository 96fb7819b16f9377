"""Watched work reports its progress and stops if the watcher returns true; without a watcher only a bar is drawn."""

import pytest

from distillation.resumable import progress
from distillation.resumable.progress import Bar, SliceOver


def test_the_watcher_is_called_for_every_piece_and_stops_the_work():
    calls = []

    def watcher(title: str, done: int, total: int) -> bool:
        calls.append((title, done, total))
        return done == 3

    bar = Bar(5, title="bricks", unit="brick", done=1, is_shown=False)
    with progress.watched(watcher), bar, pytest.raises(SliceOver):
        while True:
            bar.add()
            bar.stop_if_over()
    assert calls == [("bricks", 2, 5), ("bricks", 3, 5)]


def test_finished_work_is_not_stopped():
    with progress.watched(lambda *_: True):
        bar = Bar(2, title="bricks", unit="brick", is_shown=False)
        assert list(bar.over("ab")) == ["a", "b"]
        bar.stop_if_over()


def test_watching_ends_with_its_block():
    assert not progress.is_watched()
    with progress.watched(lambda *_: True):
        assert progress.is_watched()
    assert not progress.is_watched()
    bar = Bar(2, title="bricks", unit="brick", is_shown=False)
    bar.add()
    assert not bar.is_over


def test_a_bar_is_drawn_without_a_watcher(capsys):
    with Bar(2, title="bricks", unit="brick") as bar:
        bar.add(2)
        bar.say("red")
    assert "bricks" in (drawn := capsys.readouterr().err) and "2/2" in drawn
