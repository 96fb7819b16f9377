"""Detection of near-duplicate images by perceptual hash."""

import numpy as np
from django.db.models import Q

from distillation.examples import decoding
from distillation.examples.decoding import Crop, Refused
from distillation.models import Example, ImageSource


class KnownHashes:
    """Hashes of the examples to compare with: of the same source and of sources with the same variants."""

    def __init__(self, source: ImageSource) -> None:
        others = Q(source=source) | Q(source__variants__in=source.variants.all())
        rows = Example.objects.filter(others, refusal="").distinct().order_by("pk")
        self._rows = list(rows.only("pk", "location", "perceptual_hash", "source_id"))
        self._words = np.zeros((max(64, 2 * len(self._rows)), 4), np.uint64)
        for number, row in enumerate(self._rows):
            self._words[number] = decoding.words(row.perceptual_hash)

    def check(self, crop: Crop, *, ignored: Example | None) -> None:
        """Raise Refused if the image looks like one of the examples except `ignored` (itself in another size)."""
        found = decoding.nearest(crop.perceptual_hash, self._words[: len(self._rows)])
        if found is None or (ignored is not None and self._rows[found].pk == ignored.pk):
            return
        like = self._rows[found]
        raise Refused(
            "duplicate",
            f"It looks the same as {like.location} (example {like.pk}).",
            width=crop.width,
            height=crop.height,
        )

    def add(self, row: Example) -> None:
        if len(self._rows) == len(self._words):
            self._words = np.concatenate([self._words, np.zeros_like(self._words)])
        self._words[len(self._rows)] = decoding.words(row.perceptual_hash)
        self._rows.append(row)
