"""Law 8: no secret is ever written or printed: not into the ledger's files, logs, errors or reprs."""

from __future__ import annotations

import io
import logging
import traceback
from pathlib import Path

import pytest

from broker.core.errors import BrokerError
from broker.core.grant import Ask
from broker.issuance import TokenRequest
from broker.logs import configure
from broker.ports import UnverifiedAssertion
from broker.registration import Registration
from tests.support.fakes import CALLER, NOW
from tests.support.world import API, PAYMENTS, TICKETS, ProofKey, World, agent


def on_disk(file: Path) -> bytes:
    """Return every byte of the ledger's files."""
    return b"".join(part.read_bytes() for part in sorted(file.parent.iterdir()) if part.is_file())


async def test_what_is_presented_and_released_is_nowhere_on_disk(world: World, file: Path) -> None:
    """Tokens, their signatures, assertions, proofs, enrolment codes: none of them, not even in part."""
    key = ProofKey()
    proof = key.proof(NOW, jti="canary-proof-jti")
    assertion = world.authenticator.knows(agent("payer"), "canary-assertion-5f0b")
    ask = Ask(audience=PAYMENTS, scopes=("refunds:create",))
    issued = await world.issuance.issue(TokenRequest(assertion=assertion, ask=ask, proof=proof), CALLER)
    refused = world.authenticator.knows(agent("payer"), "canary-refused-77aa")
    with pytest.raises(BrokerError):
        await world.issuance.issue(TokenRequest(assertion=refused, ask=ask), CALLER)
    registration = Registration(
        ledger=world.ledger, records=world.records, clock=world.clock, ids=world.ids, strangers=world.strangers
    )
    enrollment = await registration.invite("new", by="alice", caller=CALLER)
    await world.revoke(token=issued.claims.jti)
    secrets = [
        issued.token,
        *issued.token.split("."),
        proof,
        *proof.split(".")[1:],
        "canary-assertion-5f0b",
        "canary-refused-77aa",
        "canary-proof-jti",
        enrollment.code,
    ]
    stored = on_disk(file)
    assert len(stored) > 10_000
    found = [secret[:20] for secret in secrets if secret.encode() in stored]
    assert found == []


async def test_a_refusal_does_not_repeat_what_was_presented(world: World) -> None:
    """Neither to the caller, nor in a traceback, nor in a log line about it."""
    stream = io.StringIO()
    root = logging.getLogger()
    handlers, level = root.handlers, root.level
    log = configure("debug", stream)
    canary = "canary-" + "e" * 40
    attempts = [
        TokenRequest(assertion=UnverifiedAssertion(canary), ask=Ask(audience=TICKETS, scopes=None)),
        TokenRequest(assertion=world.assertion(), ask=Ask(audience=TICKETS, scopes=None), proof=canary),
        TokenRequest(assertion=world.assertion(), ask=Ask(audience=TICKETS, scopes=None), client_id=canary),
    ]
    try:
        for request in attempts:
            with pytest.raises(BrokerError) as refused:
                await world.issuance.issue(request, CALLER)
            log.error("request.failed", exc_info=refused.value, code=refused.value.code.value)
            told = refused.value.public + "".join(traceback.format_exception_only(refused.value)) + stream.getvalue()
            assert "canary" not in told
    finally:
        root.handlers, root.level = handlers, level


async def test_reprs_show_no_credential(world: World) -> None:
    """Everything on the way of a request can be printed by a debugger or a crash report."""
    key = ProofKey()
    issued = await world.issue("alice", "operator:read", audience=API, proof=key.proof(NOW))
    minted = world.signer.mint(issued.claims)
    request = world.request("payer", proof=key.proof(NOW, jti="2"))
    for thing in (issued, minted, request):
        assert "eyJ" not in repr(thing)
        assert issued.token not in repr(thing)
    assert "presented" not in repr(UnverifiedAssertion("presented-canary"))
