"""TCP ports of this machine: free ones, and the processes that use them."""

import socket
from pathlib import Path

import psutil

from deploy.local.errors import PortTaken
from deploy.local.home import read_json, write_json

HOST = "127.0.0.1"
LAST = 65535
DEFAULT = 8000  # of the web process
TRIES = 100  # ports after the default one


def is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(
            socket.SOL_SOCKET, socket.SO_REUSEADDR, 1
        )  # like servers, so that TIME_WAIT counts as free
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
    """Return the port of `name` stored in `file` if it is still free, else a new one, and store that."""
    known = read_json(file)
    port = known.get(name)
    if isinstance(port, int) and is_free(port):
        return port
    port = pick()
    write_json(file, known | {name: port})
    return port


def holder(port: int) -> str:
    """Return name and pid of the process that listens on `port`, if this account may see it."""
    try:
        for connection in psutil.net_connections("tcp"):
            if connection.status == psutil.CONN_LISTEN and connection.laddr[1:2] == (port,):
                if connection.pid is None:
                    break
                process = psutil.Process(connection.pid)
                return f"{process.name()} (pid {process.pid})"
    except psutil.Error:
        pass  # on macOS only root sees the connections of other processes
    return "another process"


def for_web(wanted: int | None) -> int:
    """Return `wanted`, or without it the first free port from DEFAULT. Raises PortTaken."""
    if wanted is not None:
        if not is_free(wanted):
            raise PortTaken(
                f"Port {wanted} is taken by {holder(wanted)}. Stop it, or choose another: make run PORT={wanted + 1}"
            )
        return wanted
    for port in range(DEFAULT, DEFAULT + TRIES):
        if is_free(port):
            return port
    return pick()
