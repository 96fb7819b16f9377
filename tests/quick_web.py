"""Connections of a web process that polls for lost messages after one second; a deployed one after five."""

from generation.realtime import sse
from project import holding
from project.connections import Connection

__all__ = ["Connection"]

holding.RECHECK_SECONDS = sse.POLL_SECONDS = 1.0
