"""Base class of faults, with the actions that begin and end them."""

from dataclasses import dataclass

from tests.chaos.stack import Site


@dataclass
class Fault:
    """name: as in the report. group: faults of one group are not paired. seconds: the least duration for an effect.

    The base class is the round without a fault, for comparison.
    """

    name: str
    group: str
    seconds: float = 0.0

    def is_usable(self) -> bool:
        """Return whether this machine has the programs and the permissions that the fault needs."""
        return True

    def begin(self, site: Site) -> None:
        """Put the server, process or device into its state."""

    def end(self, site: Site) -> None:
        """Remove the cause; return when the server or the process is back."""

    def took_effect(self, site: Site) -> bool:
        """Return whether the fault had an effect, where that is not certain."""
        return True
