"""Making of pairs batch by batch, with the finished batches of an unfinished file kept on disk."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from distillation.resumable import atomic
from distillation.resumable.progress import Bar

ENDING = ".part.safetensors"
Item = tuple[int, int]  # row of the catalogue, seed
Tensors = dict[str, Tensor]


class Unfinished:
    """The pairs of `path`, and of the files that are made together with it, as numbered files next to it."""

    def __init__(self, path: Path, items: Sequence[Item], *, batch: int) -> None:
        self._path, self._items, self._batch = path, items, batch

    def complete(
        self, solve: Callable[[Sequence[Item]], Tensors], bar: Bar, *, each: int
    ) -> Tensors:
        """Return the tensors of all items by name; those that are not kept are made by `solve`, in whole batches.

        Batches are kept when at least `each` pairs are finished, and when the watcher stops the work. Raises SliceOver.
        """
        parts = self._read()
        saved = done = sum(len(part["seeds"]) for part in parts)
        if done:
            bar.add(done)
        batches: list[Tensors] = []  # that are not kept yet
        while done < len(self._items):
            batch = self._items[done : done + self._batch]
            batches.append(solve(batch))
            bar.add(len(batch))
            done += len(batch)
            if done < len(self._items) and (bar.is_over or done - saved >= each):
                atomic.make_file(self._part(saved), partial(save_file, _joined(batches)))
                parts, batches, saved = [*parts, *batches], [], done
                bar.stop_if_over()
        return _joined([*parts, *batches])

    def remove(self) -> None:
        for path in self._path.parent.glob(f"{self._path.stem}.*{ENDING}"):
            path.unlink()

    def _read(self) -> list[Tensors]:
        """Return the kept parts in order, each of whole batches.

        A part that cannot be read, or has other seeds because files are now grouped differently, is made again.
        """
        seeds = [seed for _, seed in self._items]
        parts: list[Tensors] = []
        done = 0
        while (path := self._part(done)).exists():
            try:
                part = load_file(path)
            except (OSError, SafetensorError):
                break
            found = part["seeds"].tolist()
            if len(found) % self._batch or found != seeds[done : done + len(found)]:
                break
            parts.append(part)
            done += len(found)
        return parts

    def _part(self, start: int) -> Path:
        return self._path.with_name(f"{self._path.stem}.{start}{ENDING}")


def _joined(parts: Sequence[Tensors]) -> Tensors:
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
