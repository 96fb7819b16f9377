"""Deterministic sampling: a name is in a share of all names by its hash."""

import hashlib


def is_in_share(name: str, share: float) -> bool:
    """Return whether the name is among this share (0 to 1) of all names. The same name always gets the same answer."""
    fraction = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4]) / 2**32
    return fraction < share
