from __future__ import annotations

from ipaddress import ip_network

import pytest

from broker.http.addresses import MAX_ADDRESSES, FailureLimit


def _failing(limit: FailureLimit, address: str, times: int, now: float = 0.0) -> None:
    for _ in range(times):
        limit.count(address, now)


def test_an_address_waits_after_too_many_failures() -> None:
    """Up to the limit an address may go on; then it waits until its minute is over; then it may go on again."""
    limit = FailureLimit(3)
    _failing(limit, "192.0.2.1", 2)
    assert limit.wait("192.0.2.1", 1.0) is None
    _failing(limit, "192.0.2.1", 1)
    assert limit.wait("192.0.2.1", 10.0) == 50
    assert limit.wait("192.0.2.2", 10.0) is None
    assert limit.wait("192.0.2.1", 60.0) is None


def test_a_new_minute_counts_from_nothing() -> None:
    """Failures of an earlier minute do not count."""
    limit = FailureLimit(2)
    _failing(limit, "192.0.2.1", 2, now=0.0)
    _failing(limit, "192.0.2.1", 1, now=61.0)
    assert limit.wait("192.0.2.1", 61.0) is None


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("2001:db8::1", "2001:db8::ffff", True),
        ("2001:db8::1", "2001:db8:0:0:1::1", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("::ffff:192.0.2.1", "192.0.2.1", True),
        ("fe80::1%eth0", "fe80::2%eth1", True),
    ],
)
def test_one_customer_of_a_network_is_one(one: str, other: str, same: bool) -> None:
    """An IPv6 /64 counts as one, and an IPv4 address is the same however it is written."""
    limit = FailureLimit(1)
    limit.count(one, 0.0)
    assert (limit.wait(other, 0.0) is not None) is same


def test_exempt_networks_and_local_sockets_have_no_limit() -> None:
    """Addresses of exempt networks, and peers that have no address, are never counted."""
    limit = FailureLimit(1, [ip_network("127.0.0.0/8"), ip_network("::1/128")])
    for address in ("127.0.0.1", "::1", "::ffff:127.0.0.9", "local"):
        _failing(limit, address, 5)
        assert limit.wait(address, 0.0) is None


def test_memory_is_bounded() -> None:
    """A stranger with any number of addresses takes up no more than a fixed number of places."""
    limit = FailureLimit(1)
    for number in range(MAX_ADDRESSES + 100):
        limit.count(f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}", 0.0)
    assert len(limit._failures) == MAX_ADDRESSES
    assert limit.wait("10.0.0.0", 0.0) is None


def test_a_clock_that_is_set_back_locks_nobody_out() -> None:
    """A window that lies in the future is over."""
    limit = FailureLimit(1)
    limit.count("192.0.2.1", 1000.0)
    assert limit.wait("192.0.2.1", 10.0) is None
