"""A fault: what begins and what ends it."""

from dataclasses import dataclass

from tests.chaos.stack import Site


@dataclass
class Fault:
    """name: as in the report. group: two of one group are no pair. seconds: that it must last to show itself.

    The base class is no fault: the round that others are compared with.
    """

    name: str
    group: str
    seconds: float = 0.0

    def begin(self, site: Site) -> None:
        """Put the server, process or device into its state."""

    def end(self, site: Site) -> None:
        """Take the cause away; return when the server or the process is there again."""

    def was_felt(self, site: Site) -> bool:
        """Return whether the fault did anything, where that is not certain."""
        return True
