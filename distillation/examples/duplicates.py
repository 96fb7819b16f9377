"""Which example a picture is a copy of, by how they look. Reads no file."""

import numpy as np
from django.db.models import Q

from distillation.examples import decoding
from distillation.examples.decoding import Crop, Refused
from distillation.models import Example, ImageSource


class Alike:
    """The examples that a picture of the source may be a copy of: of this source and of those of the same variants."""

    def __init__(self, source: ImageSource) -> None:
        others = Q(source=source) | Q(source__variants__in=source.variants.all())
        rows = Example.objects.filter(others, refusal="").distinct().order_by("pk")
        self._rows = list(rows.only("pk", "location", "perceptual_hash", "source_id"))
        self._words = np.zeros((max(64, 2 * len(self._rows)), 4), np.uint64)
        for number, row in enumerate(self._rows):
            self._words[number] = decoding.words(row.perceptual_hash)

    def check(self, crop: Crop, *, but: Example | None) -> None:
        """Raises Refused if it looks like one of them. but: itself, of another size."""
        found = decoding.nearest(crop.perceptual_hash, self._words[: len(self._rows)])
        if found is None or (but is not None and self._rows[found].pk == but.pk):
            return
        like = self._rows[found]
        raise Refused(
            "duplicate",
            f"It looks like {like.location} (example {like.pk}).",
            width=crop.width,
            height=crop.height,
        )

    def add(self, row: Example) -> None:
        if len(self._rows) == len(self._words):
            self._words = np.concatenate([self._words, np.zeros_like(self._words)])
        self._words[len(self._rows)] = decoding.words(row.perceptual_hash)
        self._rows.append(row)
