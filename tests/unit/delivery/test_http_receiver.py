"""HTTP receivers: each format as its receivers have it, and every answer for what it means."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from broker.core.errors import Malformed, Unavailable
from broker.core.exporting import FORMATS, Event
from broker.delivery.http import HttpReceiver, HttpTarget, TokenSource, http_url
from broker.delivery.receiver import Accepted, Later, Line, NotAccepted, Outcome, PartlyAccepted, TooLarge
from broker.outbound import Destination, Outbound, destination_of
from tests.support.certificates import certificate_for_loopback
from tests.support.entries import Entries
from tests.support.hostile_server import HostileServer, compressed_bomb, endless, hang_up, never, redirecting, truncated
from tests.support.http_receiver import Got, http_server

WALL = 1_795_300_000.0


def lines(form: str, count: int = 2) -> list[Line]:
    """Return a batch."""
    entries = Entries(count)
    events = [Event(seq, entries.entry(seq), "urn:example:ledger") for seq in range(count)]
    return [Line(event, FORMATS[form].line(event)) for event in events]


async def send(form: str, url: str, *, seconds: float = 10, count: int = 2, **target: Any) -> Outcome:  # noqa: ANN401 - passed on
    """Send one batch to a URL."""
    made = {"destination": destination_of(url), **target}
    async with Outbound(total_seconds=seconds) as outbound:
        receiver = HttpReceiver(HttpTarget(url=url, **made), FORMATS[form], outbound, wall=lambda: WALL)
        return await receiver.send(lines(form, count))


async def sent(form: str, *, token: TokenSource | None = None) -> Got:
    """Return what a receiver of a format gets."""
    async with http_server() as server:
        assert await send(form, http_url(server.url, FORMATS[form]), token=token) == Accepted()
        return server.accepted[0]


async def test_json_lines_and_cloudevents() -> None:
    """Lines are lines, and CloudEvents a batch as their HTTP binding has it."""
    got = await sent("jsonl")
    assert [json.loads(line)["seq"] for line in got.lines] == [0, 1]
    assert got.headers["Content-Type"] == "application/x-ndjson"
    assert "Authorization" not in got.headers
    batch = await sent("cloudevents")
    assert [event["id"] for event in json.loads(batch.body)] == ["0", "1"]
    assert (batch.headers["Content-Type"], batch.path) == ("application/cloudevents-batch+json", "/")


async def test_opentelemetry_and_splunk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is sent where its receivers listen, with the token in the words that they know."""
    (tmp_path / "token").write_text("  abc-123\n")
    got = await sent("otlp", token=TokenSource(file=tmp_path / "token"))
    assert (got.path, got.headers["Content-Type"]) == ("/v1/logs", "application/json")
    assert got.headers["Authorization"] == "Bearer abc-123"
    assert len(json.loads(got.body)["resourceLogs"]) == 2
    monkeypatch.setenv("HEC_TOKEN", "def-456")
    got = await sent("hec", token=TokenSource(variable="HEC_TOKEN"))
    assert got.path == "/services/collector/event"
    assert got.headers["Authorization"] == "Splunk def-456"
    first = json.loads(got.lines[0])
    assert first["time"] == 1_795_300_000.0
    assert first["event"]["entry"]["ref"] == "tok_0"
    assert first["fields"]["seq"] == "0"


@pytest.mark.parametrize(
    ("status", "headers", "outcome"),
    [
        (200, {}, Accepted()),
        (204, {}, Accepted()),
        (400, {}, NotAccepted("it answers 400")),
        (422, {}, NotAccepted("it answers 422")),
        (413, {}, TooLarge()),
        (401, {}, Later("it answers 401")),
        (404, {}, Later("it answers 404")),
        (429, {"Retry-After": "7"}, Later("it answers 429", 7.0)),
        (503, {"Retry-After": "Sat, 21 Nov 2026 22:27:10 GMT"}, Later("it answers 503", 30.0)),
        (500, {"Retry-After": "soon"}, Later("it answers 500")),
    ],
)
async def test_every_answer(status: int, headers: dict[str, str], outcome: Outcome) -> None:
    """Only what is about the entries counts against them: a token that ran out must never cost an entry."""

    async def judge(_: Got) -> web.Response:
        return web.Response(status=status, headers=headers)

    async with http_server(judge) as server:
        assert await send("jsonl", server.url) == outcome


@pytest.mark.parametrize(
    ("body", "outcome"),
    [
        (
            '{"partialSuccess": {"rejectedLogRecords": "1", "errorMessage": "no\\u001bsuch"}}',
            PartlyAccepted(1, "no\x1bsuch"),
        ),
        ('{"partialSuccess": {"rejectedLogRecords": 2}}', PartlyAccepted(2, "")),
        ('{"partialSuccess": {"errorMessage": "slow down"}}', Accepted()),
        ('{"partialSuccess": {}}', Accepted()),
        ('{"partialSuccess": null}', Accepted()),
        ('{"partialSuccess": {"rejectedLogRecords": "many"}}', Accepted()),
        ('{"partialSuccess": {"rejectedLogRecords": Infinity}}', Accepted()),
        ("{}", Accepted()),
        ("[" * 60_000, Accepted()),
        ("no JSON", Accepted()),
    ],
)
async def test_partial_success(body: str, outcome: Outcome) -> None:
    """A receiver of OpenTelemetry says in its answer how many records it has refused."""

    async def judge(_: Got) -> web.Response:
        return web.Response(text=body)

    async with http_server(judge) as server:
        assert await send("otlp", server.url) == outcome
        assert await send("jsonl", server.url) == Accepted()


@pytest.mark.parametrize(
    "answer", [never, hang_up, truncated, endless, compressed_bomb, redirecting("http://127.0.0.1:1/")]
)
async def test_a_receiver_that_answers_badly(answer: Any) -> None:  # noqa: ANN401 - one of several kinds
    """None holds the export up, fills it up, or leads it and its token elsewhere; all is sent again later."""
    async with HostileServer(answer) as server:
        assert isinstance(await send("jsonl", server.url, seconds=0.5), Later)


async def test_tls(tmp_path: Path) -> None:
    """A receiver is trusted by the roots that were named, and no other."""
    certificate = certificate_for_loopback(tmp_path)
    async with http_server(certificate=certificate) as server:
        trusted = destination_of(server.url, ca_file=str(certificate[0]))
        assert await send("jsonl", server.url, destination=trusted) == Accepted()
        outcome = await send("jsonl", server.url)
        assert outcome == Later("the peer's certificate is not trusted here")
        assert isinstance(await send("jsonl", server.url, destination=Destination(allow_private=False)), Later)
    assert len(server.accepted) == 1


async def test_a_token_is_read_again(tmp_path: Path) -> None:
    """A token that was replaced is used from the next request on; what is no token is never sent."""
    path = tmp_path / "token"
    source = TokenSource(file=path)
    async with http_server() as server:
        for text in ("one", "two"):
            path.write_text(text)
            assert await send("jsonl", server.url, token=source) == Accepted()
        for text in ("", "a b", "a\nX-Injected: 1", "\u00e9", "x" * 10_000):
            path.write_text(text)
            with pytest.raises(Unavailable, match="internal"):
                source.read()
            assert isinstance(await send("jsonl", server.url, token=source), Later)
        path.unlink()
        assert isinstance(await send("jsonl", server.url, token=source), Later)
    assert [got.headers["Authorization"] for got in server.asked] == ["Bearer one", "Bearer two"]


@pytest.mark.parametrize(
    ("url", "form", "wanted"),
    [
        ("https://logs.example", "otlp", "https://logs.example/v1/logs"),
        ("https://logs.example:8088/", "hec", "https://logs.example:8088/services/collector/event"),
        ("https://logs.example/own?x=1", "otlp", "https://logs.example/own?x=1"),
        ("https://logs.example", "jsonl", "https://logs.example"),
    ],
)
def test_where_receivers_listen(url: str, form: str, wanted: str) -> None:
    """A path that was given stays."""
    assert http_url(url, FORMATS[form]).removesuffix("/") == wanted


@pytest.mark.parametrize(
    "url", ["ftp://x", "https://", "https://u:p@logs.example", "https://logs.example/#x", "https://[x"]
)
def test_what_is_no_url(url: str) -> None:
    """It is refused at once."""
    with pytest.raises(Malformed):
        http_url(url, FORMATS["jsonl"])
