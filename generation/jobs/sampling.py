"""Deterministic sampling of names by their hash."""

import hashlib


def is_in_share(name: str, share: float) -> bool:
    """Return whether the name is in this share (0 to 1) of all names. The result is always the same for a name."""
    fraction = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4]) / 2**32
    return fraction < share
