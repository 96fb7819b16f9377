"""TCP ports of this machine: free ones, and which process holds one."""

import socket
from pathlib import Path

import psutil

from deploy.local.errors import PortTaken
from deploy.local.home import read_json, write_json

HOST = "127.0.0.1"
LAST = 65535
TRIES = 100  # ports after the default one


def is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(
            socket.SOL_SOCKET, socket.SO_REUSEADDR, 1
        )  # as servers do: TIME_WAIT is free
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def pick() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def remembered(file: Path, name: str) -> int:
    """Return the last port of `name` if it is still free, else a new one, stored in `file`."""
    known = read_json(file)
    port = known.get(name)
    if isinstance(port, int) and is_free(port):
        return port
    port = pick()
    write_json(file, known | {name: port})
    return port


def holder(port: int) -> str:
    """Return name and pid of the process that listens on `port`, as far as this account may know."""
    try:
        for connection in psutil.net_connections("tcp"):
            if connection.status == psutil.CONN_LISTEN and connection.laddr[1:2] == (port,):
                if connection.pid is None:
                    break
                process = psutil.Process(connection.pid)
                return f"{process.name()} (pid {process.pid})"
    except psutil.Error:
        pass  # macOS shows only root the connections of others
    return "another process"


def for_web(wanted: int | None, *, default: int = 8000) -> int:
    """Return the port for the web process: `wanted` or PortTaken; else the first free one from `default`."""
    if wanted is not None:
        if not is_free(wanted):
            raise PortTaken(
                f"Port {wanted} is taken by {holder(wanted)}. Stop it, or choose another: make run PORT={wanted + 1}"
            )
        return wanted
    for port in range(default, default + TRIES):
        if is_free(port):
            return port
    return pick()
