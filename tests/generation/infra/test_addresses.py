"""Addresses that may be reached: only public ones, in any notation and however they are embedded."""

import pytest

from generation.infra.addresses import is_public


@pytest.mark.parametrize(
    "address",
    [
        "8.8.8.8",
        "2606:4700::1111",
        "2001:4860:4860::8888",
        "::ffff:8.8.8.8",
        "64:ff9b::808:808",
        "2002:808:808::1",
    ],
)
def test_public_addresses_may_be_reached(address: str):
    assert is_public(address)


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "0.0.0.0", "255.255.255.255",
        "::1", "::", "fc00::1", "fec0::1", "fe80::1", "fe80::1%eth0",
    ],
)  # fmt: skip
def test_local_addresses_may_not_be_reached(address: str):
    assert not is_public(address)


@pytest.mark.parametrize(
    "address",
    ["169.254.169.254", "100.100.100.200", "168.63.129.16", "192.0.0.192", "fd00:ec2::254"],
)
def test_metadata_services_of_clouds_may_not_be_reached(address: str):
    assert not is_public(address)


@pytest.mark.parametrize(
    "address",
    [
        "::ffff:127.0.0.1", "::ffff:169.254.169.254", "::127.0.0.1", "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe",
        "64:ff9b:1::1", "2002:7f00:1::", "2002:a00:1::1", "2001:0:53aa:64c::1",
    ],
)  # fmt: skip
def test_embedded_private_addresses_may_not_be_reached(address: str):
    assert not is_public(address)


@pytest.mark.parametrize(
    "address",
    [
        "224.0.0.1", "239.1.1.1", "ff0e::1", "240.0.0.1", "192.0.2.1", "198.18.0.1", "192.88.99.1", "2001:db8::1",
        "3fff::1", "5f00::1", "100::1",
    ],
)  # fmt: skip
def test_addresses_of_no_host_may_not_be_reached(address: str):
    assert not is_public(address)


def test_a_name_is_no_address():
    with pytest.raises(ValueError):
        is_public("localhost")
