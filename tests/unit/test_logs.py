"""Logs: one line of JSON each, and a last net."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import socket
import time
from collections.abc import Iterator
from typing import Any

import pytest

from broker.core.errors import Code, Unavailable
from broker.core.secret import Secret
from broker.logs import MAX_VALUE, configure, describe, redact

JWT = "eyJhbGciOiJFUzI1NiIsInR5cCI6ImF0K2p3dCJ9.eyJzdWIiOiJjYW5hcnkifQ.c2lnbmF0dXJlLWNhbmFyeQ"
PEM = "-----BEGIN PRIVATE KEY-----\nMIGHAgEAMBMG\n-----END PRIVATE KEY-----"


class Log:
    """A configured logger, and what it wrote."""

    def __init__(self) -> None:
        self._stream = io.StringIO()
        self.events = configure("debug", self._stream)
        self.handlers = list(logging.getLogger().handlers)

    @property
    def text(self) -> str:
        """Everything that was written."""
        return self._stream.getvalue()

    def lines(self) -> list[dict[str, Any]]:
        """Return every line, read back."""
        return [json.loads(line) for line in self.text.splitlines()]


@pytest.fixture
def log() -> Iterator[Log]:
    """Configure logging for one test, and put things back."""
    root = logging.getLogger()
    handlers, level = root.handlers, root.level
    yield Log()
    root.handlers, root.level = handlers, level


def test_an_event_is_one_line_of_json(log: Log) -> None:
    """With its time, level and members."""
    log.events.info("token.issued", role="triage", seconds=1.5, ok=True, none=None, many=("a", "b"))
    (line,) = log.lines()
    assert line.pop("time").endswith("Z")
    assert line == {
        "event": "token.issued",
        "level": "info",
        "role": "triage",
        "seconds": 1.5,
        "ok": True,
        "none": None,
        "many": ["a", "b"],
    }


@pytest.mark.usefixtures("log")
def test_a_line_is_one_write() -> None:
    """Processes that share a log do not write into each other's lines, also where nothing is buffered."""
    reading, writing = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with reading, io.TextIOWrapper(io.FileIO(writing.detach(), "w"), write_through=True) as stream:
        configure("info", stream).info("worker.serving", place=1)
        written = reading.recv(4096)
    assert written.endswith(b"\n")
    assert json.loads(written)["place"] == 1


@pytest.mark.parametrize("text", ["a\nb", 'a"}\n{"event":"forged"', "a\r\nb", "\x1b[31m", "\x00", "\u2028x", "\u202ex"])
def test_a_value_cannot_forge_a_line(log: Log, text: str) -> None:
    """Log injection: whatever a stranger sends stays inside its value."""
    log.events.info("request", agent=text)
    assert len([line for line in log.text.split("\n") if line]) == 1
    assert json.loads(log.text)["agent"] == text
    assert "\x1b" not in log.text


@pytest.mark.parametrize(
    "value",
    [
        JWT,
        f"Bearer {JWT}",
        f"x={JWT}&y",
        [JWT],
        {"deep": [{"deeper": (JWT,)}]},
        {JWT: "as a name"},
        JWT.rpartition(".")[0] + ".",
        JWT.replace(".", ".", 1),
        f"{JWT}.{JWT}",
        PEM,
        {"key": PEM},
        PEM.replace("PRIVATE", "RSA PRIVATE"),
        Secret("canary"),
        b"canary",
        {"access_token": "canary"},
        {"Authorization": "canary"},
        {"client_assertion": ["canary"]},
        {"headers": {"DPoP": "canary", "Cookie": "canary"}},
        {"password": {"canary": "canary"}},
        ValueError("canary"),
        [RuntimeError(JWT)],
    ],
)
def test_credentials_do_not_get_through(log: Log, value: object) -> None:
    """Law 8: tokens, keys and what goes under the name of a credential, at any depth."""
    log.events.info("event", value=value)
    for secret in ("canary", "c2lnbmF0dXJlLWNhbmFyeQ", "eyJzdWIiOiJjYW5hcnkifQ", "MIGHAgEAMBMG"):
        assert secret not in log.text


def test_members_that_are_named_like_credentials_are_redacted(log: Log) -> None:
    """Also at the top; a reason code is none."""
    log.events.error("event", assertion="canary", Password="canary", code="blocked")
    assert "canary" not in log.text
    assert log.lines()[0]["code"] == "blocked"


def test_ordinary_words_are_left_alone(log: Log) -> None:
    """What operators search for must be found."""
    members = {
        "agent": "prod/support/triage",
        "key": "Zk3pCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I",
        "rule": "rule_01KB3Z0000000000000000000E",
        "module": "broker.key_rotation.key_schedule",
        "trace": "4bf92f3577b34da6a3ce929d0e0e4736",
    }
    log.events.info("event", **members)
    assert members.items() <= log.lines()[0].items()


@pytest.mark.parametrize(
    "value",
    ["\ud800", ["\udcff"], {"\udcff": 1}, 10**5000, float("nan"), float("inf"), object(), {1: 2}, {None: 1}, {"a"}, 1j],
    ids=range(11),
)
def test_no_value_can_fail_a_log_call(log: Log, value: object) -> None:
    """A log line that raises would fail the request that it is about."""
    log.events.info("event", value=value)
    assert len(log.lines()) == 1


def test_a_value_is_cut_to_size(log: Log) -> None:
    """Law 11: no stranger fills the disk with one value, or the stack with one structure."""
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    log.events.info("event", text="a" * 10**6, deep=deep)
    assert len(log.text) < MAX_VALUE + 500


@pytest.mark.parametrize(
    "text", ["eyJ" * 100_000, "eyJaaaaaaaaa." * 20_000, "a" * 300_000, "-----BEGIN " * 20_000], ids=range(4)
)
def test_the_net_costs_no_more_than_the_length(text: str) -> None:
    """A value made to make the patterns back-track takes no longer than another."""
    started = time.perf_counter()
    redact(text)
    assert time.perf_counter() - started < 1


def fail_with_cause() -> None:
    """Raise an error whose texts, and whose cause's, must not be seen."""
    error = KeyError(JWT)
    try:
        raise error
    except KeyError:
        raise Unavailable(Code.INTERNAL, "canary") from error


def test_exceptions_are_told_by_class_and_place(log: Log) -> None:
    """The chain of causes, without texts: they can hold anything."""
    try:
        fail_with_cause()
    except Unavailable as error:
        log.events.error("failed", exc_info=error)
        log.events.exception("failed")
        log.events.error("failed", exc_info=(type(error), error, error.__traceback__))
    chains = [line["error"] for line in log.lines()]
    place = "fail_with_cause"
    for chain in chains:
        assert [part.partition(" at ")[0] for part in chain] == ["broker.core.errors.Unavailable", "builtins.KeyError"]
        assert all(place in part for part in chain)
    assert "canary" not in log.text
    assert "eyJ" not in log.text


def test_a_cycle_of_causes_ends() -> None:
    """However an exception refers to itself."""
    one, two = ValueError(), TypeError()
    one.__cause__, two.__cause__ = two, one
    assert describe(one) == ["builtins.ValueError", "builtins.TypeError"]
    one.__cause__ = one
    assert describe(one) == ["builtins.ValueError"]


def test_libraries_speak_the_same_format(log: Log) -> None:
    """Their warnings come as events, their chatter not, their exceptions by class only."""
    library = logging.getLogger("some.library")
    library.debug("chatter")
    library.info("chatter")
    library.warning("got %s", JWT)
    try:
        int("canary")
    except ValueError:
        library.exception("it failed")
    warning, error = log.lines()
    assert (warning["event"], warning["logger"], warning["level"]) == ("library", "some.library", "warning")
    assert warning["message"] == "got [redacted]"
    assert (error["level"], error["message"]) == ("error", "it failed")
    assert "canary" not in log.text


def test_a_library_that_formats_badly_fails_nothing(log: Log) -> None:
    """A wrong number of arguments is its fault, not the request's."""
    logging.getLogger().handlers = log.handlers  # pytest's own handler would raise
    message, arguments = "%s %s", ("one",)
    logging.getLogger("some.library").warning(message, *arguments)
    assert log.lines()[0]["message"] == "%s %s"


async def test_a_task_that_failed_unseen_does_not_show_its_text(log: Log) -> None:
    """``asyncio`` prints the task's exception into its message; what is kept is that it happened."""

    async def failing() -> None:
        raise ValueError("canary")

    task = asyncio.ensure_future(failing())
    await asyncio.wait({task})
    del task
    await asyncio.sleep(0)
    (line,) = log.lines()
    assert line["logger"] == "asyncio"
    assert line["message"] == "Task exception was never retrieved"
    assert "canary" not in log.text


def test_the_level_holds() -> None:
    """What is below it is not written."""
    stream = io.StringIO()
    events = configure("error", stream)
    logging.getLogger().handlers = []
    events.info("quiet")
    events.error("loud")
    assert [json.loads(line)["event"] for line in stream.getvalue().splitlines()] == ["loud"]
