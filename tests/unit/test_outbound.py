"""The HTTP client asks only where it may, and no peer can hold it up, fill it up, or lead it elsewhere."""

from __future__ import annotations

import asyncio
import datetime as dt
import ipaddress
import ssl
from pathlib import Path

import aiohttp.resolver
import pytest
from aiohttp.abc import ResolveResult
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from broker.core.errors import Code, Unavailable
from broker.outbound import PUBLIC, Destination, Fault, NoReply, Outbound, destination_of, is_public
from tests.support.hostile_server import (
    MEBIBYTE,
    Answer,
    HostileServer,
    answering,
    compressed_bomb,
    dripping,
    endless,
    endless_head,
    fifty_megabytes,
    hang_up,
    never,
    no_http,
    redirecting,
    truncated,
)
from tests.support.identity_provider import DISCOVERY, IdentityProvider

LOOPBACK = Destination(allow_http=True, allow_private=True)


async def _refused(url: str, destination: Destination = PUBLIC) -> str:
    async with Outbound(total_seconds=1, connect_seconds=1) as outbound:
        with pytest.raises(Unavailable) as refused:
            await outbound.get(url, destination)
    assert refused.value.code is Code.ISSUER_UNAVAILABLE
    return refused.value.public


# --- where ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("address", ["1.1.1.1", "8.8.8.8", "140.82.112.3", "2606:4700::1111", "2a00:1450:4001::1"])
def test_the_internet_is_public(address: str) -> None:
    """Where real issuers live."""
    assert is_public(address)


@pytest.mark.parametrize(
    "address",
    [
        "0.0.0.0",
        "127.0.0.1",
        "127.255.255.254",
        "10.0.0.1",
        "172.16.0.1",
        "192.168.1.1",
        "169.254.169.254",
        "100.64.0.1",
        "100.100.100.200",
        "168.63.129.16",
        "192.0.0.192",
        "192.0.2.1",
        "192.88.99.1",
        "198.18.0.1",
        "224.0.0.1",
        "239.255.255.250",
        "240.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "::127.0.0.1",
        "::ffff:127.0.0.1",
        "::ffff:8.8.8.8",
        "64:ff9b::127.0.0.1",
        "64:ff9b::8.8.8.8",
        "64:ff9b:1::1",
        "2001::1",
        "2001:db8::1",
        "2002:7f00:1::",
        "2002:808:808::",
        "3fff::1",
        "5f00::1",
        "fc00::1",
        "fd00:ec2::254",
        "fe80::1",
        "fe80::1%eth0",
        "fec0::1",
        "ff02::1",
    ],
)
def test_other_addresses_are_not(address: str) -> None:
    """Private, local, reserved, cloud metadata, and addresses that hide another one."""
    assert not is_public(address)


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "localhost",
        "LOCALHOST",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]",
        "[64:ff9b::7f00:1]",
        "2130706433",
        "127.1",
        "0x7f.0.0.1",
        "0x7f000001",
        "0177.0.0.1",
        "0",
        "\u2460\u2461\u2466.0.0.1",
        "127\u30020\u30020\u30021",
        "\uff11\uff12\uff17.0.0.1",
        "127.0.0.1.",
        "localhost.",
        "%31%32%37.0.0.1",
        "0.0.0.0",
        "[::]",
    ],
)
async def test_no_spelling_of_a_private_address_gets_through(host: str) -> None:
    """Nothing connects, whoever it is that reads the name: URL parser, resolver or system."""
    async with HostileServer(answering(b"{}")) as server:
        port = server.url.rpartition(":")[2]
        await _refused(f"http://{host}:{port}", Destination(allow_http=True))
        assert server.exchanges == []


async def test_a_name_is_judged_by_what_it_leads_to_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that was harmless a moment ago and now leads inside is refused when connecting (DNS rebinding)."""
    answers = ["127.0.0.1", "10.0.0.1", "169.254.169.254"]

    async def resolve(_self: object, host: str, port: int = 0, family: int = 0) -> list[ResolveResult]:
        return [ResolveResult(hostname=host, host=answers.pop(0), port=port, family=2, proto=0, flags=0)]

    monkeypatch.setattr(aiohttp.resolver.ThreadedResolver, "resolve", resolve)
    async with HostileServer(answering(b"{}")) as server, Outbound() as outbound:
        port = server.url.rpartition(":")[2]
        url = f"http://rebind.example:{port}"
        assert (await outbound.get(url, LOOPBACK)).status == 200
        for _ in range(2):
            with pytest.raises(Unavailable, match="issuer_unavailable") as refused:
                await outbound.get(url, Destination(allow_http=True))
            assert "not public" in refused.value.public
        assert answers == []


@pytest.mark.parametrize(
    "url",
    [
        "http://issuer.example/keys",
        "ftp://issuer.example/keys",
        "file:///etc/passwd",
        "gopher://issuer.example/",
        "https://user:pass@issuer.example/",
        "https://user@issuer.example/",
        "https:///keys",
        "https://",
        "//issuer.example/keys",
        "keys",
        "",
        "https://[::1/",
        "https://issuer.example:99999/",
        "https://evil\\@issuer.example/",
    ],
)
async def test_only_plain_https_urls_are_asked(url: str) -> None:
    """And the error repeats nothing of the URL, which may hold a password."""
    text = await _refused(url)
    assert "pass" not in text
    assert "example" not in text


async def test_the_operator_can_allow_what_is_private() -> None:
    """In-cluster issuers live on private addresses, and in development without TLS."""
    async with HostileServer(answering(b'{"keys": []}', "X-Any: 1")) as server, Outbound() as outbound:
        reply = await outbound.get(server.url, LOOPBACK)
        assert (reply.status, reply.body, reply.headers["x-any"]) == (200, b'{"keys": []}', "1")
        assert "keys" not in repr(reply)
        assert "not public" in await _refused(server.url, Destination(allow_http=True))
        assert "https" in await _refused(server.url, Destination(allow_private=True))


async def test_proxies_and_cookies_of_the_environment_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody who can set a variable gets between the broker and an issuer, and nothing is carried along."""
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    async with HostileServer(answering(b"{}", "Set-Cookie: id=1; Path=/")) as server, Outbound() as outbound:
        for _ in range(2):
            assert (await outbound.get(server.url, LOOPBACK)).status == 200
        assert all(b"cookie" not in exchange.head.lower() for exchange in server.exchanges)


@pytest.mark.parametrize(
    ("url", "plain_http"),
    [
        ("http://127.0.0.1:8080", True),
        ("http://127.9.9.9", True),
        ("http://[::1]:8080", True),
        ("http://localhost", True),
        ("http://broker.internal", False),
        ("http://10.0.0.1", False),
        ("http://localhost.evil.example", False),
        ("http://[", False),
        ("", False),
    ],
)
def test_a_url_of_ones_own_may_be_private_but_plain_only_on_this_machine(url: str, plain_http: bool) -> None:
    """What whoever runs the program has named is trusted to be where it is, not to be reached in the clear."""
    assert destination_of(url, ca_file="ca.pem") == Destination(plain_http, allow_private=True, ca_file="ca.pem")


# --- how much, how long, how ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("answer", [never, dripping, endless_head])
async def test_a_slow_peer_is_left(answer: Answer) -> None:
    """The whole answer must come in time, however busily bytes arrive."""
    async with HostileServer(answer) as server, Outbound(total_seconds=0.3) as outbound:
        started = asyncio.get_running_loop().time()
        with pytest.raises(Unavailable) as refused:
            await outbound.get(server.url, LOOPBACK)
        assert asyncio.get_running_loop().time() - started < 2
    assert refused.value.retry_after


@pytest.mark.parametrize("answer", [endless, fifty_megabytes, endless_head, compressed_bomb])
async def test_a_peer_cannot_fill_the_memory(answer: Answer) -> None:
    """An answer over the bound is given up, and no more of it is taken than fits the socket's buffers."""
    async with HostileServer(answer) as server, Outbound() as outbound:
        with pytest.raises(Unavailable):
            await outbound.get(server.url, LOOPBACK)
        assert sum(exchange.sent for exchange in server.exchanges) < 8 * MEBIBYTE


async def test_the_bound_on_the_body_is_exact() -> None:
    """Of that many bytes, but not one more."""
    async with HostileServer(answering(b"x" * 1000)) as server, Outbound() as outbound:
        assert len((await outbound.get(server.url, LOOPBACK, max_bytes=1000)).body) == 1000
        with pytest.raises(Unavailable, match="issuer_unavailable") as refused:
            await outbound.get(server.url, LOOPBACK, max_bytes=999)
        assert "999" in refused.value.public


@pytest.mark.parametrize("answer", [hang_up, no_http, truncated])
async def test_a_broken_peer_is_one_clear_error(answer: Answer) -> None:
    """Half an answer is none."""
    async with HostileServer(answer) as server, Outbound() as outbound:
        with pytest.raises(Unavailable):
            await outbound.get(server.url, LOOPBACK)


@pytest.mark.parametrize(
    ("answer", "fault"),
    [
        (never, Fault.SLOW),
        (dripping, Fault.SLOW),
        (hang_up, Fault.BROKEN),
        (no_http, Fault.BROKEN),
        (truncated, Fault.BROKEN),
        (endless, Fault.TOO_LONG),
        (fifty_megabytes, Fault.TOO_LONG),
        (compressed_bomb, Fault.ENCODED),
        (redirecting("http://127.0.0.1:1/"), Fault.REDIRECT),
    ],
)
async def test_why_there_is_no_answer_is_told_apart(answer: Answer, fault: Fault) -> None:
    """Whoever asked for something to be done must know whether it may have been; it is asked once."""
    async with HostileServer(answer) as server, Outbound(total_seconds=2) as outbound:
        with pytest.raises(NoReply) as refused:
            await outbound.post(server.url, b"{}", LOOPBACK)
    assert refused.value.fault is fault
    assert len(server.exchanges) == 1


@pytest.mark.parametrize(
    ("url", "destination", "fault"),
    [
        ("http://127.0.0.1:1", LOOPBACK, Fault.UNREACHABLE),
        ("https://nobody.invalid", PUBLIC, Fault.UNREACHABLE),
        ("http://127.0.0.1:1", Destination(allow_http=True), Fault.FORBIDDEN),
        ("http://127.0.0.1:1", PUBLIC, Fault.FORBIDDEN),
    ],
)
async def test_what_was_never_asked_is_told_apart_from_what_may_have_been_done(
    url: str, destination: Destination, fault: Fault
) -> None:
    """Nothing was sent, for certain."""
    async with Outbound() as outbound:
        with pytest.raises(NoReply) as refused:
            await outbound.post(url, b"{}", destination)
    assert refused.value.fault is fault


@pytest.mark.parametrize("status", ["301 Moved", "302 Found", "303 See Other", "307 Temporary", "308 Permanent"])
async def test_redirects_are_not_followed(status: str) -> None:
    """A redirect is an error, wherever it leads."""
    async with HostileServer(answering(b"{}")) as inside:
        async with HostileServer(redirecting(inside.url, status)) as server, Outbound() as outbound:
            with pytest.raises(Unavailable) as refused:
                await outbound.get(server.url, LOOPBACK)
        assert "redirect" in refused.value.public
        assert inside.exchanges == []


async def test_other_statuses_are_the_callers_to_judge() -> None:
    """An error page is an answer, too."""
    async with HostileServer(answering(b"no", status="503 Unavailable")) as server, Outbound() as outbound:
        reply = await outbound.get(server.url, LOOPBACK)
        assert (reply.status, reply.body) == (503, b"no")


async def test_bodies_are_posted_as_they_are() -> None:
    """With the headers that the caller gives, and asking for no encoding."""
    async with HostileServer(answering(b"{}")) as server, Outbound() as outbound:
        await outbound.post(server.url, b"a=b", LOOPBACK, headers={"Content-Type": "application/x-www-form-urlencoded"})
        head = server.exchanges[0].head.lower()
        assert head.startswith(b"post /keys ")
        assert b"accept-encoding: identity" in head
        assert b"content-length: 3" in head
        await outbound.delete(server.url, LOOPBACK)
        assert server.exchanges[1].head.startswith(b"DELETE /keys ")


async def test_closing_twice_is_fine() -> None:
    """And after closing, the next request opens anew."""
    async with HostileServer(answering(b"{}")) as server:
        outbound = Outbound()
        assert (await outbound.get(server.url, LOOPBACK)).status == 200
        await outbound.close()
        await outbound.close()


# --- TLS ------------------------------------------------------------------------------------------------------------


def _authority(folder: Path, name: str) -> tuple[Path, ssl.SSLContext]:
    """Make a certificate for localhost; return the file to trust it by, and what a server needs."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    names = x509.SubjectAlternativeName([x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    start = dt.datetime(2020, 1, 1, tzinfo=dt.UTC)
    certificate = (
        x509.CertificateBuilder(subject, subject, key.public_key(), x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(start + dt.timedelta(days=36_500))
        .add_extension(names, critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, SHA256())
    )
    pem, private = folder / f"{name}.pem", folder / f"{name}.key"
    pem.write_bytes(certificate.public_bytes(Encoding.PEM))
    private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(pem, private)
    return pem, context


async def test_certificates_are_checked_against_the_destinations_own_roots(tmp_path: Path) -> None:
    """The right ``ca_file`` is needed; the system's roots, or another destination's, do not do."""
    trusted, context = _authority(tmp_path, "cluster")
    other, _ = _authority(tmp_path, "other")
    async with IdentityProvider(lambda: 0.0).with_tls(context) as provider, Outbound() as outbound:
        url = provider.url + DISCOVERY
        good = Destination(allow_private=True, ca_file=str(trusted))
        assert (await outbound.get(url, good)).status == 200
        for bad in (Destination(allow_private=True), Destination(allow_private=True, ca_file=str(other))):
            with pytest.raises(Unavailable) as refused:
                await outbound.get(url, bad)
            assert "certificate" in refused.value.public


async def test_a_missing_or_broken_ca_file_trusts_nobody(tmp_path: Path) -> None:
    """It is an error, and never means the system's roots."""
    broken = tmp_path / "broken.pem"
    broken.write_text("no certificate")
    for path in (broken, tmp_path / "missing.pem"):
        await _refused("https://127.0.0.1:1/", Destination(allow_private=True, ca_file=str(path)))
