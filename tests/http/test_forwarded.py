"""Whom a request counts for when it comes through a proxy."""

from __future__ import annotations

import asyncio
import shutil
from ipaddress import ip_network
from pathlib import Path

import aiohttp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.http.forwarded import MAX_PROXIES, client_address
from tests.support.broker_app import TICKETS, BrokerApp, Template, running_app

PROXY = "10.0.0.5"
EDGE = "192.0.2.80"
TRUSTED = (ip_network("10.0.0.0/24"), ip_network(EDGE), ip_network("fd00:1::/64"))


def _behind_proxy(template: Template, folder: Path, networks: str) -> Template:
    """Return a template whose settings trust these networks."""
    shutil.copytree(template.folder, folder)
    settings = folder / "broker.toml"
    settings.write_text(settings.read_text().replace("[listen]\n", f"[listen]\ntrusted_proxies = {networks}\n", 1))
    return Template(folder, template.keys)


@pytest.mark.parametrize(
    ("lines", "client"),
    [
        (["203.0.113.7"], "203.0.113.7"),
        (["198.51.100.1, 203.0.113.7"], "203.0.113.7"),
        (["not an address, 203.0.113.7"], "203.0.113.7"),
        (["203.0.113.7, 192.0.2.80"], "203.0.113.7"),
        (["198.51.100.1,203.0.113.7\t,10.0.0.9 , 192.0.2.80"], "203.0.113.7"),
        (["198.51.100.1", "203.0.113.7"], "203.0.113.7"),
        (["203.0.113.7", "192.0.2.80"], "203.0.113.7"),
        (["198.51.100.1, 203.0.113.7", "10.0.0.9", "192.0.2.80"], "203.0.113.7"),
        (["203.0.113.7:40000"], "203.0.113.7"),
        (["2001:DB8::7"], "2001:db8::7"),
        (["[2001:db8::7]"], "2001:db8::7"),
        (["[2001:db8::7]:40000"], "2001:db8::7"),
        (["203.0.113.7, fd00:1::9"], "203.0.113.7"),
        (["::ffff:203.0.113.7"], "203.0.113.7"),
        (["203.0.113.7, ::ffff:10.0.0.9"], "203.0.113.7"),
        (["," * 5000 + "203.0.113.7"], "203.0.113.7"),
        (["198.51.100.1, " * 5000 + "203.0.113.7, 192.0.2.80"], "203.0.113.7"),
        (["x" * 16_000 + ",203.0.113.7"], "203.0.113.7"),
    ],
)
def test_the_client_is_the_last_one_that_no_proxy_is(lines: list[str], client: str) -> None:
    """What trusted proxies wrote is followed; what the client wrote to the left of it, however much, means nothing."""
    assert client_address(PROXY, lines, TRUSTED) == client


@pytest.mark.parametrize(
    "lines",
    [
        [],
        [""],
        [" , "],
        ["unknown"],
        ["203.0.113.7,"],
        ["203.0.113.7, garbage"],
        ["203.0.113.7", ""],
        ["203.0.113.7 198.51.100.1"],
        ["203.0.113"],
        ["203.0.113.256"],
        ["203.0.113.007"],
        ["203.0.113.\u0667"],
        ["203.0.113.7:"],
        ["203.0.113.7:http"],
        ["203.0.113.7:4000000"],
        ["[203.0.113.7"],
        ["[2001:db8::7"],
        ["2001:db8::7]"],
        ["[2001:db8::7]x"],
        ["2001:db8::7%eth0"],
        ["fe80::1%\x1b[31mforged"],
        ["for=203.0.113.7"],
        ["203.0.113.7" + " " * 100],
        ["2" * 16_000],
        ["10.0.0.9, 192.0.2.80"],
        ["203.0.113.7" + ", 10.0.0.9" * MAX_PROXIES],
        ["127.0.0.1"],
        ["::1"],
        ["::ffff:127.0.0.1"],
        ["0.0.0.0"],
    ],
)
def test_a_header_that_names_no_client(lines: list[str]) -> None:
    """The request then counts for the proxy that sent it; nothing unreadable is skipped, nothing odd is recorded."""
    assert client_address(PROXY, lines, TRUSTED) == PROXY


@pytest.mark.parametrize("peer", ["203.0.113.66", "10.0.1.5", "::ffff:203.0.113.66", "2001:db8::66", "local", "::1"])
def test_a_header_from_anybody_else_is_ignored(peer: str) -> None:
    """Who is not listed, and a peer without an address, speaks for nobody, whatever it says."""
    assert client_address(peer, ["198.51.100.1"], TRUSTED) == peer
    assert client_address(peer, [f"198.51.100.1, {PROXY}"], TRUSTED) == peer
    assert client_address(peer, ["198.51.100.1"], ()) == peer


@pytest.mark.parametrize("peer", [PROXY, f"::ffff:{PROXY}", EDGE, "fd00:1::5", "fd00:1::5%eth0"])
def test_a_proxy_is_known_however_its_address_is_written(peer: str) -> None:
    """A listener for IPv4 and IPv6 sees IPv4 peers as mapped addresses."""
    assert client_address(peer, ["203.0.113.7"], TRUSTED) == "203.0.113.7"


def test_as_many_proxies_as_may_be() -> None:
    """A chain of the longest length still leads to the client."""
    chain = "203.0.113.7" + ", 10.0.0.9" * (MAX_PROXIES - 1)
    assert client_address(PROXY, [chain], TRUSTED) == "203.0.113.7"
    assert client_address(PROXY, chain.split(", "), TRUSTED) == "203.0.113.7"


@given(st.lists(st.text(max_size=80), max_size=20))
def test_a_client_behind_a_proxy_cannot_change_its_address(forged: list[str]) -> None:
    """Whatever it sends, in one line or many, the proxy's word at the right end decides."""
    assert client_address(PROXY, [*forged, "203.0.113.7"], TRUSTED) == "203.0.113.7"
    assert client_address(PROXY, [", ".join([*forged, "203.0.113.7"])], TRUSTED) == "203.0.113.7"


async def test_the_limit_is_of_each_client_behind_a_proxy(template: Template, tmp_path: Path) -> None:
    """A stranger that fails too often waits alone, whatever it sends itself; entries and the log name the client."""
    proxied = _behind_proxy(template, tmp_path / "proxied", '["127.0.0.1"]')
    async with running_app(proxied, tmp_path / "b", site={"failures_per_minute": 3}) as app:
        for number in range(3):
            forged = {"X-Forwarded-For": f"198.51.100.{number}, 203.0.113.66"}
            assert (await app.ask({"grant_type": "client_credentials"}, forged)).status == 400
        locked = await app.ask(_good(app), {"X-Forwarded-For": "198.51.100.9, 203.0.113.66"})
        assert (locked.status, locked.json["code"]) == (429, "rate_limited")
        assert (await app.ask(_good(app), {"X-Forwarded-For": "203.0.113.7"})).status == 200
        assert (await app.ask(_good(app), {"X-Forwarded-For": "2001:db8::7"})).status == 200
        addresses = [entry["address"] for entry in await app.entries("token.issued")]
        assert addresses[-2:] == ["203.0.113.7", "2001:db8::7"]
        logged = [line["address"] for line in app.events.of("request")]
        assert logged == ["203.0.113.66"] * 4 + ["203.0.113.7", "2001:db8::7"]


@pytest.mark.parametrize("networks", ["[]", '["10.0.0.0/8"]'])
async def test_a_stranger_cannot_choose_its_address(template: Template, tmp_path: Path, networks: str) -> None:
    """By default, and for a peer that is not listed, the header changes neither the limit nor what is recorded."""
    untrusting = _behind_proxy(template, tmp_path / "direct", networks)
    site = {"failures_per_minute": 3, "unlimited": ()}
    async with running_app(untrusting, tmp_path / "b", site=site) as app:
        assert (await app.ask(_good(app), {"X-Forwarded-For": "203.0.113.7"})).status == 200
        assert (await app.entries("token.issued"))[-1]["address"] == "127.0.0.1"
        for number in range(3):
            forged = {"X-Forwarded-For": f"203.0.113.{number}"}
            assert (await app.ask({"grant_type": "client_credentials"}, forged)).status == 400
        assert (await app.ask(_good(app), {"X-Forwarded-For": "203.0.113.200"})).status == 429
        assert {line["address"] for line in app.events.of("request")} == {"127.0.0.1"}


async def test_several_header_lines_on_the_wire(template: Template, tmp_path: Path) -> None:
    """They are one list, in the order in which they were sent; bytes that are no text do no harm."""
    proxied = _behind_proxy(template, tmp_path / "proxied", '["127.0.0.1"]')
    async with running_app(proxied, tmp_path / "b") as app:
        for lines in (
            b"X-Forwarded-For: 198.51.100.1\r\nx-forwarded-for: 203.0.113.7\r\n",
            b"X-Forwarded-For: \xff\xfe\r\nX-Forwarded-For: 203.0.113.7, 127.0.0.1\r\n",
            b"X-Forwarded-For: 203.0.113.7, \xff\xfe\r\n",
        ):
            reader, writer = await asyncio.open_connection("127.0.0.1", app.server.port)
            writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n" + lines + b"Connection: close\r\n\r\n")
            assert (await asyncio.wait_for(reader.read(), 10)).startswith(b"HTTP/1.1 200 ")
            writer.close()
            await writer.wait_closed()
        assert [line["address"] for line in app.events.of("request")] == ["203.0.113.7", "203.0.113.7", "127.0.0.1"]


async def test_no_other_forwarded_header_is_read(template: Template, tmp_path: Path) -> None:
    """Even a trusted proxy changes neither host nor scheme, nor the client by another header's name."""
    proxied = _behind_proxy(template, tmp_path / "proxied", '["127.0.0.1"]')
    async with running_app(proxied, tmp_path / "b") as app:
        plain = await app.call("GET", "/.well-known/oauth-authorization-server")
        forged = {
            "Forwarded": "for=203.0.113.7;host=evil.example;proto=https",
            "X-Forwarded-Host": "evil.example",
            "X-Forwarded-Proto": "https",
            "X-Real-IP": "203.0.113.7",
            aiohttp.hdrs.HOST: "evil.example",
        }
        reply = await app.call("GET", "/.well-known/oauth-authorization-server", headers=forged)
        assert (reply.status, reply.body) == (200, plain.body)
        assert app.events.of("request")[-1]["address"] == "127.0.0.1"


def _good(app: BrokerApp) -> dict[str, str]:
    return app.form("alpha", audience=TICKETS, scope="tickets:read")
