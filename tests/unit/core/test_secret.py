"""A ``Secret`` cannot be printed, copied or encoded by accident."""

from __future__ import annotations

import copy
import json
import logging
import pickle
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass

import msgspec
import pytest

from broker.core.secret import Secret

CANARY = "canary-5f0b7c1e"


@pytest.mark.parametrize(
    "show",
    [
        str,
        repr,
        ascii,
        "{}".format,
        "{:>80}".format,
        "{0!r}".format,
        lambda secret: "%s" % secret,  # noqa: UP031 - one of the ways to print
        lambda secret: f"{secret}",
        lambda secret: str([secret]),
        lambda secret: str({"secret": secret}),
    ],
)
def test_formatting_never_shows_it(show: Callable[[object], str]) -> None:
    """Whatever way it is formatted, alone or in a container, the value does not appear."""
    assert CANARY not in show(Secret(CANARY))


@pytest.mark.parametrize(
    "leak",
    [
        pickle.dumps,
        copy.copy,
        copy.deepcopy,
        json.dumps,
        msgspec.json.encode,
        msgspec.msgpack.encode,
        bytes,
        hash,
        vars,
        lambda secret: secret.__getstate__(),
        lambda secret: secret.__reduce_ex__(4),
        lambda secret: secret.__dict__,
    ],
)
def test_nothing_takes_it_out_by_accident(leak: Callable[[object], object]) -> None:
    """Encoders, copies, conversions and state hooks refuse."""
    with pytest.raises((TypeError, AttributeError)) as refused:
        leak(Secret(CANARY))
    assert CANARY not in "".join(traceback.format_exception(refused.value))


def test_a_dataclass_that_holds_one_cannot_be_flattened() -> None:
    """``asdict`` copies what it finds, which a secret refuses."""

    @dataclass
    class Holder:
        secret: Secret

    assert CANARY not in repr(Holder(Secret(CANARY)))
    with pytest.raises(TypeError):
        asdict(Holder(Secret(CANARY)))


def test_a_log_record_does_not_show_it(caplog: pytest.LogCaptureFixture) -> None:
    """Passing one to a logger by mistake prints a placeholder."""
    logging.getLogger("test").warning("got %s", Secret(CANARY))
    assert CANARY not in caplog.text
    assert "Secret(" in caplog.text


def test_reveal_is_the_way_out() -> None:
    """Text is held as UTF-8, bytes as they are."""
    assert Secret("grün").reveal() == "grün".encode()
    assert Secret(b"\x00\xff").reveal() == b"\x00\xff"


def test_equality_is_between_secrets_only() -> None:
    """Equal values are equal; nothing that is not a ``Secret`` equals one, so none is compared by accident."""
    assert Secret(CANARY) == Secret(CANARY.encode())
    assert Secret(CANARY) != Secret("other")
    assert Secret(CANARY) != CANARY
    assert Secret(CANARY) != CANARY.encode()


def test_the_fingerprint_depends_on_the_key() -> None:
    """A record's fingerprint tells equal secrets apart from others, and says nothing without the key."""
    secret = Secret(CANARY)
    assert secret.fingerprint(b"k1") == Secret(CANARY).fingerprint(b"k1")
    assert secret.fingerprint(b"k1") != secret.fingerprint(b"k2")
    assert secret.fingerprint(b"k1") != Secret("other").fingerprint(b"k1")
    assert len(secret.fingerprint(b"k1")) == 64
    assert CANARY not in secret.fingerprint(b"k1")
