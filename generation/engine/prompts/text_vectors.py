"""Vector of a text: the row of its embedding at the end-of-text token, CLIP's representation of the whole text.

Vectors have unit length; texts are compared by cosine similarity.
"""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from generation.engine.prompts import tokens
from generation.engine.prompts.embeddings import DTYPE

if TYPE_CHECKING:
    from generation.engine.prompts.encoder import Encoder

Vector = npt.NDArray[np.float32]  # (width,)
STORED = np.dtype(DTYPE).newbyteorder("<")


class TextVectors:
    """Text vectors of one encoder. bytes: size of a vector in a stored embedding."""

    def __init__(self, encoder: "Encoder", folder: Path) -> None:
        self.fingerprint = encoder.fingerprint
        self.max_tokens, self.width = encoder.shape
        self.bytes = self.width * STORED.itemsize
        self._encoder = encoder
        self._tokenizer = tokens.load_tokenizer(folder)

    def count(self, text: str) -> int:
        """Return the number of tokens including start and end."""
        return len(self._tokenizer.encode(text).ids)

    def is_split(self, word: str) -> bool:
        """Return whether the tokenizer splits the word into several tokens."""
        return self.count(word) > 3  # start, the word, end

    def offset(self, text: str) -> int:
        """Return the offset of the text's vector in its stored embedding."""
        return (self.count(text) - 1) * self.bytes

    def read(self, stored: bytes) -> Vector:
        """Return the vector in these bytes of a stored embedding; zeros (similar to nothing) if damaged."""
        vector = np.frombuffer(stored, STORED).astype(np.float32)
        length = float(np.linalg.norm(vector))
        return vector / length if 0 < length < np.inf else np.zeros_like(vector)

    def encode(self, text: str) -> Vector:
        """Return the vector of a text, which is truncated to the encoder's limit."""
        while self.count(text) > self.max_tokens:
            text = text.rpartition(" ")[0] or text[: len(text) // 2]
        (stored,) = self._encoder.encode([text])
        first = self.offset(text)
        return self.read(stored.data[first : first + self.bytes])
