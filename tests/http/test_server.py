from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import socket
import ssl
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from broker.http.app import create_app, create_metrics_app
from broker.http.server import Bounds, Certificate, Door, HttpServer
from tests.support.broker_app import TICKETS, BrokerApp, Template, running_app

GET = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def _connect(app: BrokerApp) -> Streams:
    return await asyncio.open_connection("127.0.0.1", app.server.port)


async def _close(*streams: Streams) -> None:
    for _, writer in streams:
        writer.close()
    await asyncio.gather(*(writer.wait_closed() for _, writer in streams), return_exceptions=True)


async def _answer(reader: asyncio.StreamReader) -> bytes:
    """Read one answer's header and body."""
    head = await reader.readuntil(b"\r\n\r\n")
    length = next(line for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:"))
    return head + await reader.readexactly(int(length.split(b":")[1]))


def _drip(port: int) -> bytes:
    """Send a header that does not end, and return the answer; what came before a reset can still be read."""
    answer = b""
    with socket.create_connection(("127.0.0.1", port), timeout=0.05) as client:
        client.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n")
        for _ in range(200):
            with contextlib.suppress(OSError):
                client.sendall(b"X-Drip: 1\r\n")
            try:
                piece = client.recv(4096)
            except TimeoutError:
                continue
            except ConnectionResetError:
                break
            if not piece:
                break
            answer += piece
    return answer


async def test_a_slow_header(template: Template, tmp_path: Path) -> None:
    """A client that drips its header is told 408 and cut off, however steadily it drips (slow loris)."""
    async with running_app(template, tmp_path / "b", bounds=Bounds(header_seconds=0.3, stop_seconds=1)) as app:
        answer = await asyncio.to_thread(_drip, app.server.port)
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert b"too_slow" in answer
        assert b"Connection: close" in answer


async def test_an_idle_connection_is_no_slow_header(template: Template, tmp_path: Path) -> None:
    """A connection that has sent nothing may wait longer than a header may take."""
    async with running_app(template, tmp_path / "b", bounds=Bounds(header_seconds=0.1, stop_seconds=1)) as app:
        reader, writer = await _connect(app)
        waited = asyncio.get_running_loop().time() + 1.0
        while asyncio.get_running_loop().time() < waited:
            assert (await app.call("GET", "/healthz")).status == 200
        writer.write(GET)
        assert (await _answer(reader)).startswith(b"HTTP/1.1 200 ")
        await _close((reader, writer))


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"GET /" + b"x" * 20_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: x\r\nX: " + b"x" * 20_000 + b"\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: x\r\n" + b"".join(b"X-%d: y\r\n" % number for number in range(200)) + b"\r\n",
    ],
)
async def test_an_oversized_header(app: BrokerApp, request_bytes: bytes) -> None:
    """A line, a field or a number of fields beyond the limit is refused, and nothing of it is repeated."""
    reader, writer = await _connect(app)
    writer.write(request_bytes)
    answer = await asyncio.wait_for(reader.read(), 10)
    await _close((reader, writer))
    assert answer.split(b" ", 2)[1] == b"400"
    assert b"malformed_request" in answer
    assert b"xxxx" not in answer
    assert (await app.call("GET", "/healthz")).status == 200


async def test_a_thousand_idle_connections(app: BrokerApp) -> None:
    """With 1,000 connections that do nothing, tokens are issued as before."""
    idle = await asyncio.gather(*(_connect(app) for _ in range(1000)))
    for _ in range(10):
        assert await app.token("alpha")
    await _close(*idle)


async def test_more_connections_than_there_is_room_for(template: Template, tmp_path: Path) -> None:
    """When all places are taken by idle clients, the one that has idled the longest makes room for who comes."""
    async with running_app(template, tmp_path / "b", bounds=Bounds(connections=10, stop_seconds=1)) as app:
        crowd = [await _connect(app) for _ in range(30)]
        assert await app.token("alpha")
        assert await asyncio.wait_for(crowd[0][0].read(), 5) == b""
        latest_reader, latest_writer = crowd[-1]
        latest_writer.write(GET)
        assert (await _answer(latest_reader)).startswith(b"HTTP/1.1 200 ")
        await _close(*crowd)


async def test_no_room_among_busy_connections(template: Template, tmp_path: Path) -> None:
    """A busy connection is never cut off for a new one: that one gets 503."""
    async with running_app(template, tmp_path / "b", bounds=Bounds(connections=2, stop_seconds=1)) as app:
        gate, entered = asyncio.Event(), asyncio.Semaphore(0)
        issue = app.services.issuance.issue

        async def held(*arguments: object) -> object:
            entered.release()
            await gate.wait()
            return await issue(*arguments)  # type: ignore[arg-type]

        app.services.issuance.issue = held  # type: ignore[method-assign,assignment]
        asking = [
            asyncio.create_task(app.ask(app.form("alpha", audience=TICKETS, scope="tickets:read"))) for _ in range(2)
        ]
        for _ in asking:
            await entered.acquire()
        reader, writer = await _connect(app)
        answer = await asyncio.wait_for(reader.read(), 5)
        assert answer.startswith(b"HTTP/1.1 503 ")
        assert b"overloaded" in answer
        await _close((reader, writer))
        gate.set()
        assert [reply.status for reply in await asyncio.gather(*asking)] == [200, 200]


async def test_requests_in_a_row_on_one_connection(app: BrokerApp) -> None:
    """Pipelined requests are answered one after the other."""
    reader, writer = await _connect(app)
    writer.write(GET * 20)
    for _ in range(20):
        assert (await _answer(reader)).startswith(b"HTTP/1.1 200 ")
    await _close((reader, writer))


async def test_a_connection_is_closed_after_a_while(template: Template, tmp_path: Path) -> None:
    """A kept-alive connection that idles too long is closed."""
    async with running_app(template, tmp_path / "b", bounds=Bounds(keep_alive_seconds=0.2, stop_seconds=1)) as app:
        reader, writer = await _connect(app)
        writer.write(GET)
        assert (await _answer(reader)).startswith(b"HTTP/1.1 200 ")
        assert await asyncio.wait_for(reader.read(), 10) == b""
        await _close((reader, writer))


async def test_a_client_that_never_reads(template: Template, tmp_path: Path) -> None:
    """A client that asks and asks and does not read is cut off, and holds nothing of ours for ever."""
    async with running_app(template, tmp_path / "b", bounds=Bounds(write_seconds=0.2, stop_seconds=1)) as app:
        probe = socket.socket()
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        probe.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(probe, ("127.0.0.1", app.server.port))
        asking = b"GET /.well-known/oauth-authorization-server HTTP/1.1\r\nHost: x\r\n\r\n" * 1000

        async def ask_on() -> None:
            while True:
                await loop.sock_sendall(probe, asking)

        with pytest.raises(ConnectionError):
            await asyncio.wait_for(ask_on(), 20)
        probe.close()
        assert await app.token("alpha")


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n\r\n",
        b"CONNECT evil.example:443 HTTP/1.1\r\nHost: evil.example\r\n\r\n",
        b"GET http://evil.example/healthz HTTP/1.1\r\nHost: evil.example\r\n\r\n",
        b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"TRACE /healthz HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer secret\r\n\r\n",
    ],
)
async def test_other_things_that_http_can_do(app: BrokerApp, request_bytes: bytes) -> None:
    """Upgrades, tunnels, proxying and tracing are answered, and nothing of the kind happens."""
    reader, writer = await _connect(app)
    writer.write(request_bytes)
    answer = await asyncio.wait_for(_answer(reader), 10)
    assert answer.split(b" ", 2)[1] in {b"200", b"400", b"404", b"405"}
    assert b"evil" not in answer
    assert b"secret" not in answer
    await _close((reader, writer))
    assert (await app.call("GET", "/healthz")).status == 200


async def test_a_client_that_asks_before_it_sends(app: BrokerApp) -> None:
    """``Expect: 100-continue`` is answered, then the request; other expectations are ignored."""
    reader, writer = await _connect(app)
    body = b"grant_type=password"
    head = (
        b"POST /oauth2/token HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-www-form-urlencoded\r\n"
        b"Content-Length: %d\r\nExpect: %s\r\n\r\n"
    )
    writer.write(head % (len(body), b"100-continue"))
    assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
    writer.write(body)
    assert (await _answer(reader)).startswith(b"HTTP/1.1 400 ")
    writer.write(head % (len(body), b"wonders") + body)
    assert (await _answer(reader)).startswith(b"HTTP/1.1 400 ")
    await _close((reader, writer))


async def test_a_stop_answers_what_was_accepted(template: Template, tmp_path: Path) -> None:
    """While it stops, the broker answers 503 to what is new, finishes what it has, and then closes."""
    async with running_app(template, tmp_path / "b") as app:
        gate, entered = asyncio.Event(), asyncio.Event()
        issue = app.services.issuance.issue

        async def held(*arguments: object) -> object:
            entered.set()
            await gate.wait()
            return await issue(*arguments)  # type: ignore[arg-type]

        app.services.issuance.issue = held  # type: ignore[method-assign,assignment]
        asking = asyncio.create_task(app.ask(app.form("alpha", audience=TICKETS, scope="tickets:read")))
        await entered.wait()
        idle_reader, idle_writer = await _connect(app)
        stopping = asyncio.create_task(app.server.stop())
        await asyncio.sleep(0)
        reader, writer = await _connect(app)
        writer.write(GET)
        refused = await asyncio.wait_for(reader.read(), 5)
        assert refused.startswith(b"HTTP/1.1 503 ")
        assert b"stopping" in refused
        assert b"Retry-After" in refused
        assert not stopping.done()
        gate.set()
        assert (await asking).status == 200
        await asyncio.wait_for(stopping, 5)
        assert await asyncio.wait_for(idle_reader.read(), 5) == b""
        with pytest.raises(OSError):  # noqa: PT011 - refused or reset, as the system likes
            await _connect(app)
        await _close((reader, writer), (idle_reader, idle_writer))


async def test_a_stop_has_an_end(template: Template, tmp_path: Path) -> None:
    """A request that never ends does not keep the broker from stopping."""
    async with running_app(template, tmp_path / "b", bounds=Bounds(stop_seconds=0.2)) as app:
        entered = asyncio.Event()

        async def forever(*_arguments: object) -> None:
            entered.set()
            await asyncio.Event().wait()

        app.services.issuance.issue = forever  # type: ignore[method-assign,assignment]
        asking = asyncio.create_task(app.ask(app.form("alpha", audience=TICKETS, scope="tickets:read")))
        await entered.wait()
        await asyncio.wait_for(app.server.stop(), 10)
        assert isinstance((await asyncio.gather(asking, return_exceptions=True))[0], Exception)


async def test_an_address_that_is_taken(app: BrokerApp) -> None:
    """A broker whose port is taken says so, and leaves nothing of itself running."""
    site, bounds = app.broker.site, Bounds(stop_seconds=1)
    private = Door(create_metrics_app(app.services, site), "127.0.0.1", 0, bounds, site.issuer)
    public = Door(create_app(app.services, site), "127.0.0.1", app.server.port, bounds, site.issuer)
    with pytest.raises(OSError, match="in use"):
        await HttpServer(public, private).start()
    with pytest.raises(OSError):  # noqa: PT011 - refused or reset, as the system likes
        await asyncio.open_connection("127.0.0.1", private.port)
    assert (await app.call("GET", "/healthz")).status == 200


def _certificate(folder: Path, name: str) -> Certificate:
    """Write a self-signed certificate for 127.0.0.1 with a common name to tell it by."""
    key = generate_private_key(SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now)
        .not_valid_after(now + dt.timedelta(days=36500))
        .sign(key, SHA256())
    )
    (folder / "tls.crt").write_bytes(made.public_bytes(Encoding.PEM))
    (folder / "tls.key").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return Certificate(chain=str(folder / "tls.crt"), key=str(folder / "tls.key"))


async def _served_name(app: BrokerApp) -> str:
    """Return the common name of the certificate that a new connection is shown."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    _, writer = await asyncio.open_connection("127.0.0.1", app.server.port, ssl=context)
    certificate = x509.load_der_x509_certificate(writer.get_extra_info("ssl_object").getpeercert(binary_form=True))
    writer.close()
    await writer.wait_closed()
    return str(certificate.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)[0].value)


async def test_certificates_are_reloaded(template: Template, tmp_path: Path) -> None:
    """New connections get the new certificate; one that cannot be used is refused and changes nothing."""
    certificate = _certificate(tmp_path, "first")
    async with running_app(template, tmp_path / "b", certificate=certificate) as app:
        assert await _served_name(app) == "first"
        _certificate(tmp_path, "second")
        app.server.reload_certificates()
        assert await _served_name(app) == "second"
        good = Path(certificate.key).read_bytes()
        _certificate(tmp_path, "third")
        Path(certificate.key).write_bytes(good)  # the key of another certificate
        with pytest.raises(ssl.SSLError):
            app.server.reload_certificates()
        Path(certificate.chain).unlink()
        with pytest.raises(OSError, match="No such file"):
            app.server.reload_certificates()
        assert await _served_name(app) == "second"


async def test_old_protocols_are_refused(template: Template, tmp_path: Path) -> None:
    """Nothing older than TLS 1.2 is spoken."""
    async with running_app(template, tmp_path / "b", certificate=_certificate(tmp_path, "x")) as app:
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        _, writer = await asyncio.open_connection("127.0.0.1", app.server.port, ssl=context)
        assert writer.get_extra_info("ssl_object").version() == "TLSv1.2"
        writer.close()
        await writer.wait_closed()
        assert app.server._tls is not None
        assert app.server._tls.minimum_version is ssl.TLSVersion.TLSv1_2


async def test_an_unusable_certificate_is_found_before_listening(template: Template, tmp_path: Path) -> None:
    """A certificate that is not there stops the start."""
    with pytest.raises(OSError, match="No such file"):
        async with running_app(
            template, tmp_path / "b", certificate=Certificate(chain="/nowhere.crt", key="/nowhere.key")
        ):
            pass
