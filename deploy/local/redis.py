"""A private Redis: writes its configuration, says how to start it and whether it answers. Does not supervise it."""

import os
import signal
import socket
from pathlib import Path

import psutil

from deploy.local import binaries
from deploy.local.errors import LocalError
from deploy.local.ports import HOST


class Redis:
    def __init__(
        self,
        folder: Path,
        *,
        port: int,
        password: str,
        databases: int = 16,
        throw_away: bool = False,
    ):
        self.folder = folder
        self.port = port
        self.password = password
        self.databases = databases
        self.throw_away = throw_away
        self.program = binaries.redis()
        self.config = folder / "redis.conf"

    @property
    def url(self) -> str:
        return f"redis://:{self.password}@{HOST}:{self.port}/0"

    def prepare(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.stop_leftover()
        self.config.touch(mode=0o600)
        folder = str(self.folder).replace("\\", "\\\\").replace('"', '\\"')
        lines = [
            f"bind {HOST}",
            f"port {self.port}",
            f"requirepass {self.password}",
            f"databases {self.databases}",
            f'dir "{folder}"',
            f'pidfile "{folder}/redis.pid"',
            "daemonize no",
            'save ""',
            # Queues must not be evicted: cached entries carry a lifetime instead.
            "maxmemory-policy noeviction",
            *([] if self.throw_away else ["appendonly yes", "appendfsync everysec"]),
        ]
        self.config.write_text("\n".join(lines) + "\n")

    def command(self) -> list[str]:
        return [str(self.program), str(self.config)]

    def is_ready(self) -> bool:
        """It answers to our password, and has read its data."""
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

    def stop_leftover(self) -> None:
        """Stop a server on this folder that outlived its launcher."""
        try:
            process = psutil.Process(int((self.folder / "redis.pid").read_text()))
            ours = process.exe() == os.path.realpath(self.program) and Path(process.cwd()).samefile(
                self.folder
            )
        except (OSError, ValueError, psutil.Error):
            return
        if not ours:
            return
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(timeout=5)
        except psutil.TimeoutExpired:
            raise LocalError(
                f"Redis (pid {process.pid}) from an earlier start does not stop. End it, then try again."
            ) from None
