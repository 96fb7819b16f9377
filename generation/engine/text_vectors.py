"""One vector for a text: the row of its embedding at the end-of-text token, which CLIP takes for the whole text.

Knows no catalogue. Two texts are compared by the cosine of their vectors, which are of unit length.
"""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from generation.engine import tokens
from generation.engine.embeddings import DTYPE

if TYPE_CHECKING:
    from generation.engine.encoder import Encoder

Vector = npt.NDArray[np.float32]  # (width,)
STORED = np.dtype(DTYPE).newbyteorder("<")


class TextVectors:
    """Of the texts of one encoder. bytes: that a vector takes in a stored embedding."""

    def __init__(self, encoder: "Encoder", folder: Path) -> None:
        self.fingerprint = encoder.fingerprint
        self.max_tokens, self.width = encoder.shape
        self.bytes = self.width * STORED.itemsize
        self._encoder = encoder
        self._tokenizer = tokens.load_tokenizer(folder)

    def count(self, text: str) -> int:
        """Tokens, start and end included."""
        return len(self._tokenizer.encode(text).ids)

    def is_spelt(self, word: str) -> bool:
        """Whether the tokenizer has no token of its own for the word: the encoder reads it in pieces."""
        return self.count(word) > 3  # start, the word, end

    def offset(self, text: str) -> int:
        """The first byte of the text's vector in its stored embedding."""
        return (self.count(text) - 1) * self.bytes

    def read(self, stored: bytes) -> Vector:
        """The vector of `bytes` bytes of a stored embedding; of damaged ones, zeros: near to nothing."""
        vector = np.frombuffer(stored, STORED).astype(np.float32)
        length = float(np.linalg.norm(vector))
        return vector / length if 0 < length < np.inf else np.zeros_like(vector)

    def encode(self, text: str) -> Vector:
        """Of a text of any length; of one that is too long, of as much of its beginning as the encoder reads."""
        while self.count(text) > self.max_tokens:
            text = text.rpartition(" ")[0] or text[: len(text) // 2]
        (stored,) = self._encoder.encode([text])
        first = self.offset(text)
        return self.read(stored.data[first : first + self.bytes])
