"""Which network addresses requests that others ask us to make may reach. Knows no Django, no names and no sockets.

A name is judged by the address that it led to, when the connection to it is made: what a name leads to may change.
"""

import ipaddress

_UNICAST = ipaddress.IPv6Network("2000::/3")  # all of IPv6 that is routed; the rest is special
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
# Special by newer registries than some Pythons have, or by what answers there.
_REFUSED = tuple(
    ipaddress.ip_network(network)
    for network in (
        "168.63.129.16/32",  # a cloud's platform, seen from its virtual machines
        "192.0.0.0/24",  # protocols; metadata of another cloud
        "192.88.99.0/24",  # relays of 6to4
        "3fff::/20",  # documentation
    )
)


def is_public(address: str) -> bool:
    """Whether a numeric address is one of the public internet, in whichever form IPv6 wraps it. Raises ValueError."""
    given = ipaddress.ip_address(address)
    wrapped = _wrapped(given) if isinstance(given, ipaddress.IPv6Address) else None
    reached = wrapped or given
    if isinstance(reached, ipaddress.IPv6Address) and reached not in _UNICAST:
        return False
    if any(reached in network for network in _REFUSED):
        return False
    return reached.is_global and not (reached.is_multicast or reached.is_reserved)


def _wrapped(address: ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    """The IPv4 address that packets to this one end at."""
    if address in _NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour
