"""Health check of the containers: `python -m deploy.healthcheck web|worker`. Exit code 0 is healthy.

The web process must answer; a worker, which listens on no port, must have a fresh heartbeat in its row.
"""

import os
import socket
import sys
from http.client import HTTPConnection, HTTPException

PORT = 8000


def web() -> bool:
    connection = HTTPConnection("127.0.0.1", PORT, timeout=4)
    try:
        connection.request("GET", "/health/live")
        return connection.getresponse().status == 200
    except (OSError, HTTPException):
        return False
    finally:
        connection.close()


def worker() -> bool:
    import django

    django.setup()

    import django.db

    from generation.infra import heartbeat

    try:
        return heartbeat.alive().filter(hostname=socket.gethostname()).exists()
    except django.db.Error:
        return False


CHECKS = {"web": web, "worker": worker}


def main(arguments: list[str]) -> int:
    if len(arguments) != 1 or arguments[0] not in CHECKS:
        sys.stderr.write(f"Give one of {', '.join(CHECKS)}.\n")
        return 2
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "project.settings")
    return 0 if CHECKS[arguments[0]]() else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
