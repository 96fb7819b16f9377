"""Leases of the jobs that this process runs, shared by the threads that generate, write and renew."""

import threading
import time
from collections.abc import Iterable

from django.conf import settings

from generation.jobs import lifecycle as jobs
from generation.jobs.lifecycle import Claim


class Leases:
    """The generating thread adds claims, writer threads release them, and the heartbeat thread renews them."""

    def __init__(self) -> None:
        self._held: set[Claim] = set()
        self._lost: set[Claim] = set()
        self._guard = threading.Lock()
        self._extended_at = 0.0

    def __len__(self) -> int:
        return len(self._held)

    def add(self, claims: Iterable[Claim]) -> None:
        with self._guard:
            self._held.update(claims)

    def release(self, claims: Iterable[Claim]) -> None:
        with self._guard:
            self._held.difference_update(claims)
            self._lost.difference_update(claims)

    def held(self) -> set[Claim]:
        with self._guard:
            return set(self._held)

    def is_lost(self, claim: Claim) -> bool:
        """Return whether the job was canceled or given to another worker."""
        return claim in self._lost

    def renew(self) -> None:
        """Find out which jobs this process has lost, and extend the leases of the others when due."""
        held = self.held()
        if not held:
            return
        now = time.monotonic()
        extend = now - self._extended_at > settings.LEASE_SECONDS / 4
        lost = held - jobs.held(held, extend=extend)
        if extend:
            self._extended_at = now
        with self._guard:
            self._lost.update(lost & self._held)
