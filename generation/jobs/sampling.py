"""A lot for a name: as good as drawn, and the same for ever. Knows not what is drawn for."""

import hashlib


def drawn(name: str) -> float:
    """From 0 to below 1, by the hash of the name."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:4]) / 2**32
