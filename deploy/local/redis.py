"""A private Redis server: its configuration, its command line, and whether it answers."""

import socket
from pathlib import Path

from deploy.local import binaries
from deploy.local.ports import HOST

TEST_DATABASES = 64  # one for each parallel test process


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
            f"requirepass {self.password}",
            f"databases {TEST_DATABASES if self.throw_away else 16}",
            f'dir "{folder}"',
            "daemonize no",
            "set-proc-title no",  # its title would overwrite the environment, by which it is found
            'save ""',
            # Queues must not be evicted: cached entries carry a lifetime instead.
            "maxmemory-policy noeviction",
            *([] if self.throw_away else ["appendonly yes", "appendfsync everysec"]),
        ]
        self.config.write_text("\n".join(lines) + "\n")

    def command(self) -> list[str]:
        return [str(self.program), str(self.config)]

    def is_ready(self) -> bool:
        """Return whether it answers to our password, so that it has read its data."""
        try:
            with socket.create_connection((HOST, self.port), timeout=1) as connection:
                connection.sendall(f"AUTH {self.password}\r\nPING\r\n".encode())
                answer = b""
                while answer.count(b"\r\n") < 2:
                    part = connection.recv(1000)
                    if not part:
                        return False
                    answer += part
        except OSError:
            return False
        return answer == b"+OK\r\n+PONG\r\n"
