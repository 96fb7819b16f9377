"""Private PostgreSQL and Redis of one home under its supervisor, unless DATABASE_URL or REDIS_URL is set."""

import sys
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress

from deploy.local import ports
from deploy.local.errors import LocalError, ProcessFailed
from deploy.local.home import Home
from deploy.local.postgresql import PostgreSQL, wait_until
from deploy.local.redis import Redis, answers
from deploy.local.supervision import (
    Program,
    Supervisor,
    Watch,
    end_processes,
    kill_processes,
    marked,
    tail,
)

NAMES = ("postgres", "redis")
READY_SECONDS = 180


def say(text: str) -> None:
    """Print progress to stderr, since stdout is for results."""
    # The terminal or pipe may be closed, or the disk full; the processes must be stopped all the same.
    with suppress(OSError):
        print(text, file=sys.stderr, flush=True)


class Servers:
    """The servers of a home. Hold the home's lock from prepare() to stop() or kill().

    environment: of all processes; the variables that the project's settings need are added. throw_away: for tests,
    nothing is synced.
    """

    def __init__(
        self,
        home: Home,
        environment: Mapping[str, str],
        *,
        throw_away: bool = False,
        on_progress: Callable[[str], None] = say,
    ):
        self.home = home
        self.environment = marked(environment, home)
        self.supervisor = Supervisor(home)
        self.postgres: PostgreSQL | None = None
        self.redis: Redis | None = None
        self._throw_away = throw_away
        self._say = on_progress

    def prepare(self) -> None:
        """End leftover processes, choose ports and create the data folders. Raises LocalError."""
        if ended := end_processes(self.home, last=NAMES):
            self._say(f"Ended {ended} leftover processes of an earlier start.")
        secrets = self.home.secrets()
        memory = self.home.folder / "ports.json"
        if not self.environment.get("DATABASE_URL"):
            self.postgres = PostgreSQL(
                self.home.postgres,
                port=ports.remembered(memory, "postgres"),
                password=secrets["postgres_password"],
                throw_away=self._throw_away,
            )
            if not self.postgres.data.exists():
                self._say("Creating a PostgreSQL data folder …")
            self.postgres.prepare()
            self.environment["DATABASE_URL"] = self.postgres.url
        if not self.environment.get("REDIS_URL"):
            self.redis = Redis(
                self.home.redis,
                port=ports.remembered(memory, "redis"),
                password=secrets["redis_password"],
                throw_away=self._throw_away,
            )
            self.redis.prepare()
            self.environment["REDIS_URL"] = self.redis.url
        elif not answers(self.environment["REDIS_URL"]):
            raise LocalError(
                "No Redis answers at REDIS_URL. Start it and check the password, or unset the variable."
            )
        for name in ("SECRET_KEY", "METRICS_TOKEN"):
            self.environment.setdefault(name, secrets[name])
        self.environment.setdefault("DATA_DIR", str(self.home.data))

    def start(self, others: Iterable[Program] = ()) -> None:
        """Start the supervisor and the servers, and wait until they answer. others: programs to start later."""
        programs, looks = [], []
        if self.postgres:
            user = self.postgres.account.user
            # SIGINT stops it fast and orderly.
            programs.append(
                Program("postgres", self.postgres.command(), user=user, stop_signal="INT")
            )
            looks.append(self.postgres.is_ready)
        if self.redis:
            programs.append(Program("redis", self.redis.command()))
            looks.append(self.redis.is_ready)
        self.supervisor.start([*programs, *others], self.environment)
        if programs:
            titles = {"postgres": "PostgreSQL", "redis": "Redis"}
            self._say(f"Starting {' and '.join(titles[program.name] for program in programs)} …")
        names = [program.name for program in programs]
        self.supervisor.run(*names)
        watch = Watch(names)
        for name, is_ready in zip(names, looks, strict=True):

            def settled(is_ready: Callable[[], bool] = is_ready) -> bool:
                watch.check(self.supervisor.states())
                return is_ready()

            if not wait_until(settled, READY_SECONDS, step=0.03):
                log = tail(self.home.logs / f"{name}.log")
                raise ProcessFailed(f"{name} does not answer. Its log ends:\n{log}")

    def stop(self) -> None:
        """Stop all processes of the home within 10 seconds, the servers last. The data is kept."""
        try:
            end_processes(self.home, last=NAMES)
        finally:
            self.kill()

    def kill(self) -> None:
        """Kill all processes of the home."""
        kill_processes(self.home)
        self.supervisor.reap()
        self.home.unlock()
