"""Progress of long work: a bar in a terminal, and a watcher that may stop the work.

The caller of a slice installs the watcher, which gets the progress and returns whether the slice is over.
"""

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

from tqdm import tqdm

Piece = TypeVar("Piece")
Watcher = Callable[[str, int, int], bool]  # (title, done, total) → whether to stop here
_watcher: ContextVar[Watcher | None] = ContextVar("watcher", default=None)


class SliceOver(Exception):
    """The watcher stopped the work. What was done is kept, and the same call resumes it."""


@contextmanager
def watched(watcher: Watcher) -> Iterator[None]:
    """Within the block, report this thread's work to the watcher; the work stops when it returns True."""
    token = _watcher.set(watcher)
    try:
        yield
    finally:
        _watcher.reset(token)


def is_watched() -> bool:
    return _watcher.get() is not None


class Bar:
    """Progress of `total` pieces of work, of which `done` exist already."""

    def __init__(
        self, total: int, *, title: str, unit: str, done: int = 0, is_shown: bool = True
    ) -> None:
        self._title, self._total, self._done = title, total, done
        self.is_over = False  # the watcher's last answer
        self._bar = tqdm(
            total=total,
            initial=done,
            desc=title,
            unit=unit,
            disable=not is_shown,
            mininterval=0.5 if sys.stderr.isatty() else 30.0,  # a log file needs no animation
        )

    def __enter__(self) -> "Bar":
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def say(self, text: str) -> None:
        """Show the text behind the bar."""
        self._bar.set_postfix_str(text, refresh=False)

    def add(self, pieces: int = 1) -> None:
        """Add finished pieces and call the watcher, which may take long."""
        self._done += pieces
        self._bar.update(pieces)
        watcher = _watcher.get()
        self.is_over = watcher is not None and watcher(self._title, self._done, self._total)

    def over(self, pieces: Iterable[Piece]) -> Iterator[Piece]:
        """Yield each piece, which counts as done when the next is requested. The bar closes after the last."""
        with self:
            for piece in pieces:
                yield piece
                self.add()

    def stop_if_over(self) -> None:
        """Raise SliceOver if the watcher stopped the work. Call it only when all finished work is on disk."""
        if self.is_over and self._done < self._total:
            raise SliceOver
