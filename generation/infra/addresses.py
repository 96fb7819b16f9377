"""Check of network addresses for URLs that users supply (webhooks, image sources): only public ones are allowed.

Call it with the address of the connection, since the addresses of a host name may change. Imports no Django.
"""

import ipaddress

_UNICAST = ipaddress.IPv6Network("2000::/3")  # all of IPv6 that is routed; the rest is special
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
# Reserved ranges that Python's registries may lack, and ranges with special services.
_REFUSED = tuple(
    ipaddress.ip_network(network)
    for network in (
        "168.63.129.16/32",  # Azure's platform services
        "192.0.0.0/24",  # protocol assignments; metadata of a cloud
        "192.88.99.0/24",  # 6to4 relays
        "3fff::/20",  # documentation
    )
)


def is_public(address: str) -> bool:
    """Return whether a numeric address is public, also if IPv6 embeds an IPv4 address. Raises ValueError."""
    given = ipaddress.ip_address(address)
    wrapped = _wrapped(given) if isinstance(given, ipaddress.IPv6Address) else None
    reached = wrapped or given
    if isinstance(reached, ipaddress.IPv6Address) and reached not in _UNICAST:
        return False
    if any(reached in network for network in _REFUSED):
        return False
    return reached.is_global and not (reached.is_multicast or reached.is_reserved)


def _wrapped(address: ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    """Return the IPv4 address that the IPv6 address embeds, or None."""
    if address in _NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour
