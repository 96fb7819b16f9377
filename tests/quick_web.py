"""Connections of a web process that looks again for lost messages after a second, where a deployed one takes five."""

from generation.realtime import sse
from project import holding
from project.connections import Connection

__all__ = ["Connection"]

holding.RECHECK_SECONDS = sse.POLL_SECONDS = 1.0
