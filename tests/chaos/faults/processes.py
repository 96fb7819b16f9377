"""Processes of the stack that are killed, frozen, doubled or on a host with a wrong clock, and broken devices."""

import os
import signal
import subprocess
import time
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta

from tests.acceptance.stack import wait_for
from tests.chaos import clock
from tests.chaos.device import effect_file
from tests.chaos.faults.fault import Fault
from tests.chaos.servers import Repeating
from tests.chaos.stack import Site

BESIDE_SECONDS = 5.0  # enough for a beat that does not check its lock to send several times
GENERATION = ("generation-1", "generation-2", "generation-3")


@dataclass
class Killed(Fault):
    """A repeated signal; the supervisor restarts the process each time."""

    processes: tuple[str, ...] = ()
    again_seconds: float = 5.0
    number: int = signal.SIGKILL
    _repeating: Repeating | None = field(default=None, repr=False)

    def begin(self, site: Site) -> None:
        self._kill(site)
        self._repeating = Repeating(lambda: self._kill(site), self.again_seconds)

    def _kill(self, site: Site) -> None:
        for name in self.processes:
            with suppress(ProcessLookupError):
                os.kill(site.stack.pid(name), self.number)

    def end(self, site: Site) -> None:
        assert self._repeating
        self._repeating.stop()


@dataclass
class Frozen(Fault):
    """SIGSTOP for longer than a lease."""

    processes: tuple[str, ...] = ()
    _pids: list[int] = field(default_factory=list, repr=False)

    def begin(self, site: Site) -> None:
        self._pids = [site.stack.pid(name) for name in self.processes]
        for pid in self._pids:
            os.kill(pid, signal.SIGSTOP)

    def end(self, site: Site) -> None:
        for pid in self._pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


@dataclass
class SecondBeat(Fault):
    """Two beats, of which the first is frozen until the second has taken over, and then thawed beside it."""

    _process: "subprocess.Popen[bytes] | None" = field(default=None, repr=False)
    _pid: int = 0

    def begin(self, site: Site) -> None:
        self._process = site.beat()
        self._pid = site.stack.pid("beat")
        os.kill(self._pid, signal.SIGSTOP)

    def end(self, site: Site) -> None:
        assert self._process
        with suppress(AssertionError):
            wait_for(lambda: self.took_effect(site), "the second beat has begun", seconds=120)
        with suppress(ProcessLookupError):
            os.kill(self._pid, signal.SIGCONT)
        time.sleep(BESIDE_SECONDS)
        self._process.terminate()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(30)
        self._process.kill()
        self._process.wait()

    def took_effect(self, site: Site) -> bool:
        return "beat_begins" in site.second_beat.read_text()


@dataclass
class BrokenDevice(Fault):
    """Workers with a device fault. mode: of tests.chaos.device."""

    mode: str = ""
    workers: tuple[str, ...] = GENERATION[1:2]  # not the worker that other faults kill or freeze

    def begin(self, site: Site) -> None:
        for worker in self.workers:
            effect_file(site.devices / worker).unlink(missing_ok=True)
            (site.devices / worker).write_text(self.mode)

    def end(self, site: Site) -> None:
        for worker in self.workers:
            (site.devices / worker).unlink(missing_ok=True)

    def took_effect(self, site: Site) -> bool:
        return all(effect_file(site.devices / worker).exists() for worker in self.workers)


@dataclass
class WrongClock(Fault):
    """A host whose clock jumps, and jumps back at the end. processes: those of the host."""

    processes: tuple[str, ...] = ()
    by: timedelta = timedelta()
    _is_followed: bool = False

    def is_usable(self) -> bool:
        return clock.COMPILER is not None

    def begin(self, site: Site) -> None:
        self._shift(site, self.by)
        self._is_followed = all(
            clock.follows(site.clocks, name, site.stack.pid(name)) for name in self.processes
        )

    def end(self, site: Site) -> None:
        self._shift(site, timedelta())

    def _shift(self, site: Site, by: timedelta) -> None:
        for name in self.processes:
            clock.shift(site.clocks, name, by)

    def took_effect(self, site: Site) -> bool:
        return self._is_followed
