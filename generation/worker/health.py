"""Health of a worker: a fault of its storage or its device stops its claims until a probe succeeds."""

import random
import threading
import time
from collections.abc import Callable

import structlog

from generation.jobs.failures import Failure

log = structlog.get_logger(__name__)

PAUSES_SECONDS = (1.0, 2.0, 4.0, 8.0, 15.0)  # before each probe; the last one repeats


class Health:
    """fault: what keeps the worker from taking jobs, or None; tries: probes since real work succeeded."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._probe: Callable[[], None] | None = None
        self._prober: threading.Thread | None = None
        self.tries = 0
        self._due_at = 0.0
        self.fault: Failure | None = None

    @property
    def is_good(self) -> bool:
        return self.fault is None

    def failed(self, fault: Failure, probe: Callable[[], None]) -> None:
        """Stop claims until `probe` succeeds. It runs in a separate thread, since it may hang."""
        with self._guard:
            if self.fault is not None:
                return
            self.fault, self._probe = fault, probe
            self._wait()
        log.error("worker_faulty", code=fault.code, detail=fault.detail)

    def worked(self) -> None:
        """Note that real work succeeded, so that the next fault starts with a short pause."""
        if self.fault is None:
            self.tries = 0

    def check(self) -> bool:
        """Start a probe if it is due. Return whether the worker has recovered since the last call."""
        with self._guard:
            if self.fault is None or time.monotonic() < self._due_at:
                return False
            if self._prober is None:
                self._prober = threading.Thread(target=self._try, name="probe", daemon=True)
                self._prober.start()
                return False
            if self._prober.is_alive():
                return False
            self._prober = None
            if self._probe is not None:
                self._wait()
                return False
            fault, self.fault = self.fault, None
        log.info("worker_recovered", code=fault.code, probes=self.tries)
        return True

    def _try(self) -> None:
        probe = self._probe
        if probe is None:
            return
        try:
            probe()
            self._probe = None
        except Exception as error:
            log.warning("probe_failed", error=str(error) or repr(error), tries=self.tries)

    def _wait(self) -> None:
        pause = PAUSES_SECONDS[min(self.tries, len(PAUSES_SECONDS) - 1)]
        self.tries += 1
        self._due_at = time.monotonic() + random.uniform(pause / 2, pause)
