"""A private Redis server: configuration, command line, readiness."""

from pathlib import Path

from redis import RedisError, from_url
from redis.backoff import NoBackoff
from redis.retry import Retry

from deploy.local import binaries
from deploy.local.ports import HOST

TEST_DATABASES = 64  # one per parallel test process


class Redis:
    def __init__(
        self,
        folder: Path,
        *,
        port: int,
        password: str,
        throw_away: bool = False,
    ):
        self.folder = folder
        self.port = port
        self.password = password
        self.throw_away = throw_away
        self.program = binaries.redis()
        self.config = folder / "redis.conf"

    @property
    def url(self) -> str:
        return f"redis://:{self.password}@{HOST}:{self.port}/0"

    def prepare(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.config.touch(mode=0o600)
        folder = str(self.folder).replace("\\", "\\\\").replace('"', '\\"')
        lines = [
            f"bind {HOST}",
            f"port {self.port}",
            f'requirepass "{self.password}"',
            f"databases {TEST_DATABASES if self.throw_away else 16}",
            f'dir "{folder}"',
            "daemonize no",
            "set-proc-title no",  # the title would overwrite the environment, by which we find the process
            'save ""',
            # Queues must not be evicted; cached entries have a lifetime instead.
            "maxmemory-policy noeviction",
            *([] if self.throw_away else ["appendonly yes", "appendfsync everysec"]),
        ]
        self.config.write_text("\n".join(lines) + "\n")

    def command(self) -> list[str]:
        return [str(self.program), str(self.config)]

    def is_ready(self) -> bool:
        return answers(self.url)


def answers(url: str) -> bool:
    """Return whether the server answers with the URL's password, that is, has loaded its data."""
    try:
        with from_url(url, socket_timeout=5, retry=Retry(NoBackoff(), 0)) as client:
            return bool(client.ping())
    except (RedisError, ValueError):
        return False
