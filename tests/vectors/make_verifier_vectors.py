"""How ``verifier.json`` was made: signed statements and tokens, and by hand what a verifier must make of each.

It was run once. The file is checked in and is not made again: what verifiers rely on must not change.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from broker.core.claims import AccessClaims
from broker.core.marks import mark_of
from tests.support.fake_broker import SigningKey

ISSUER = "https://broker.example"
AUDIENCE = "https://tickets.internal"
START = 1_795_300_000
LEEWAY = 5
MAX_STALENESS = 10
MARKS_KEY = b"the key of the marks of a vector"

KEY = SigningKey()
STRANGER = SigningKey()
RETIRED = SigningKey()
CLAIMING = SigningKey()
CLAIMING.kid = KEY.kid


def statement(typ: str, at: int, key: SigningKey = KEY, **members: Any) -> str:  # noqa: ANN401 - members of the payload
    """A signed statement, made at ``at`` seconds after the start."""
    payload = {"iss": ISSUER, "iat": START + at, "exp": START + at + 300, **members}
    return key.sign(payload, typ)


def mark(epoch: int) -> str:
    """The mark of an epoch."""
    return mark_of(MARKS_KEY, epoch)


def item(number: int | None, ends: int | None = 900, name: str | None = None, **selector: Any) -> dict[str, Any]:  # noqa: ANN401 - fields of the selector
    """A rule in a snapshot."""
    until = None if ends is None or number is None else START + ends
    return {"id": name or f"rule_{number}", "n": number, "selector": selector, "ends": until}


def snapshot(at: int, epoch: int, *rules: dict[str, Any], **changes: Any) -> dict[str, str]:  # noqa: ANN401 - members of the payload
    """An event with a snapshot."""
    members = {"epoch": epoch, "mark": mark(epoch), "rules": list(rules), **changes}
    return {"event": "snapshot", "data": statement("broker-rules+jwt", at, **members)}


def rule(at: int, previous: int, stated: dict[str, Any], **changes: Any) -> dict[str, str]:  # noqa: ANN401 - members of the payload
    """An event with a rule."""
    epoch = previous if stated["n"] is None else stated["n"]
    members = {**stated, "previous": previous, "mark": mark(epoch), **changes}
    return {"event": "rule", "data": statement(changes.pop("typ", "broker-rule+jwt"), at, **members)}


def heartbeat(at: int, epoch: int, *pending: str, **changes: Any) -> dict[str, str]:  # noqa: ANN401 - members of the payload
    """An event with a heartbeat."""
    members = {"epoch": epoch, "mark": mark(epoch), "pending": list(pending), **changes}
    return {"event": "heartbeat", "data": statement("broker-heartbeat+jwt", at, **members)}


def heard(at: int, event: dict[str, str], expect: str, epoch: int | None, fresh: bool, **rules: int | None) -> Any:  # noqa: ANN401 - a step
    """A step: an event that arrives ``at`` seconds after the start, and what is known after it."""
    return {"at": START + at, **event, "expect": expect, "epoch": epoch, "fresh": fresh, "rules": rules}


def asked(at: int, expect: str, key: SigningKey = KEY, typ: str = "at+jwt", **changes: Any) -> Any:  # noqa: ANN401 - a step
    """A step: a request with a token, and the code of the refusal or ``good``."""
    members: dict[str, Any] = {
        "iss": ISSUER,
        "sub": "triage",
        "aud": AUDIENCE,
        "client_id": "triage",
        "iat": START,
        "exp": START + 900,
        "jti": "tok_1",
        "scopes": ("tickets:read",),
        "epoch": 1,
        "task": "task_1",
        "role": "support",
        "tier": "read",
        "issuer": "registered",
    }
    return {"at": START + at, "token": key.sign(AccessClaims(**members | changes).to_payload(), typ), "expect": expect}


ONE = item(1, agent="other")
HELD = "pending_1"

SEQUENCES: dict[str, list[Any]] = {
    "before the first snapshot everything shows a gap, and nothing is good": [
        heard(0, heartbeat(0, 0), "gap", None, False),
        heard(0, rule(0, 0, ONE), "gap", None, False),
        asked(0, "view_stale"),
        heard(0, snapshot(0, 1, ONE), "taken", 1, True, rule_1=1),
        asked(0, "good"),
    ],
    "a rule kills what is older than it, by each fact of a token": [
        heard(0, snapshot(0, 1, ONE), "taken", 1, True, rule_1=1),
        heard(1, rule(1, 1, item(2, agent="triage")), "taken", 2, True, rule_1=1, rule_2=2),
        asked(1, "token_revoked"),
        asked(1, "good", epoch=2),
        asked(1, "token_revoked", sub="planner", agents=("triage",), parents=("tok_0",)),
        asked(1, "token_revoked", sub="triage", client_id="helper", agents=("helper",), parents=("tok_0",)),
        heard(2, rule(2, 2, item(3, task="task_0")), "taken", 3, True, rule_1=1, rule_2=2, rule_3=3),
        asked(2, "token_revoked", epoch=2, task="task_9", path=("task_0",)),
        asked(2, "good", epoch=2),
        heard(3, rule(3, 3, item(4, token="tok_0")), "taken", 4, True, rule_1=1, rule_2=2, rule_3=3, rule_4=4),
        asked(3, "token_revoked", epoch=3, sub="planner", agents=("triage",), parents=("tok_0",)),
        asked(3, "good", epoch=3),
    ],
    "fields of a selector are ANDed, and inherited facts count": [
        heard(0, snapshot(0, 2, item(2, scope="tickets:read", tier="write")), "taken", 2, True, rule_2=2),
        asked(0, "good"),
        asked(0, "token_revoked", tier="write"),
        asked(
            0,
            "token_revoked",
            sub="planner",
            agents=("triage",),
            parents=("tok_0",),
            inherited=(("tier", "write"),),
        ),
        heard(1, rule(1, 2, item(3, key=KEY.kid)), "taken", 3, True, rule_2=2, rule_3=3),
        asked(1, "token_revoked", epoch=2),
        heard(2, rule(2, 3, item(4, everything=True)), "taken", 4, True, rule_2=2, rule_3=3, rule_4=4),
        asked(2, "token_revoked", epoch=3),
        asked(2, "good", epoch=4),
    ],
    "repeated rules change nothing, missing ones are noticed": [
        heard(0, snapshot(0, 1, ONE), "taken", 1, True, rule_1=1),
        heard(1, rule(1, 1, item(2, agent="b")), "taken", 2, True, rule_1=1, rule_2=2),
        heard(1, rule(1, 1, item(2, agent="b")), "known", 2, True, rule_1=1, rule_2=2),
        heard(1, rule(1, 0, ONE), "known", 2, True, rule_1=1, rule_2=2),
        heard(2, rule(2, 3, item(4, agent="d")), "gap", 2, True, rule_1=1, rule_2=2),
        heard(2, heartbeat(2, 4), "gap", 2, True, rule_1=1, rule_2=2),
        heard(2, snapshot(2, 4, ONE, item(4, agent="d")), "taken", 4, True, rule_1=1, rule_4=4),
        heard(2, rule(2, 2, item(3, agent="c")), "known", 4, True, rule_1=1, rule_4=4),
    ],
    "after an older ledger was accepted, numbers jump": [
        heard(0, snapshot(0, 1, ONE), "taken", 1, True, rule_1=1),
        heard(
            1,
            rule(1, 1, item(7_000_000_000, agent="b")),
            "taken",
            7_000_000_000,
            True,
            rule_1=1,
            rule_7000000000=7_000_000_000,
        ),
    ],
    "a rule without a number stands above every epoch, until it has one": [
        heard(0, snapshot(0, 1, ONE), "taken", 1, True, rule_1=1),
        heard(1, rule(1, 1, item(None, name=HELD, agent="triage")), "taken", 1, True, rule_1=1, pending_1=None),
        asked(1, "token_revoked", epoch=1_000),
        heard(2, heartbeat(2, 1, HELD), "taken", 1, True, rule_1=1, pending_1=None),
        heard(2, rule(2, 1, item(None, name=HELD, agent="triage")), "known", 1, True, rule_1=1, pending_1=None),
        heard(3, heartbeat(3, 1), "gap", 1, True, rule_1=1, pending_1=None),
        heard(3, rule(3, 1, item(2, name=HELD, agent="triage")), "taken", 2, True, rule_1=1, pending_1=2),
        asked(3, "token_revoked", epoch=1),
        asked(3, "good", epoch=2),
        heard(3, rule(1, 1, item(None, name=HELD, agent="triage")), "known", 2, True, rule_1=1, pending_1=2),
        heard(4, heartbeat(4, 2), "taken", 2, True, rule_1=1, pending_1=2),
    ],
    "a withdrawn rule goes with the next snapshot, and an older one is refused": [
        heard(0, snapshot(0, 1, ONE), "taken", 1, True, rule_1=1),
        heard(2, rule(2, 1, item(None, name=HELD, agent="triage")), "taken", 1, True, rule_1=1, pending_1=None),
        heard(2, snapshot(1, 1, ONE), "refused", 1, True, rule_1=1, pending_1=None),
        heard(3, snapshot(3, 1, ONE), "taken", 1, True, rule_1=1),
        asked(3, "good"),
    ],
    "a view never goes back": [
        heard(0, snapshot(0, 3, ONE), "taken", 3, True, rule_1=1),
        heard(1, snapshot(1, 2, ONE), "refused", 3, True, rule_1=1),
        heard(1, snapshot(-1, 3, ONE), "refused", 3, True, rule_1=1),
        heard(1, heartbeat(1, 2), "known", 3, True, rule_1=1),
        heard(1, heartbeat(-1, 3), "known", 3, True, rule_1=1),
    ],
    "age counts from the statement, less the leeway, and old statements make nothing younger": [
        heard(0, snapshot(0, 1, ONE), "taken", 1, True, rule_1=1),
        asked(10, "good"),
        asked(11, "view_stale"),
        heard(12, snapshot(0, 1, ONE), "known", 1, False, rule_1=1),
        heard(12, heartbeat(0, 1), "known", 1, False, rule_1=1),
        heard(20, heartbeat(6, 1), "taken", 1, True, rule_1=1),
        asked(21, "good"),
        asked(22, "view_stale"),
        heard(40, heartbeat(20, 1), "taken", 1, False, rule_1=1),
        asked(40, "view_stale"),
        heard(41, rule(41, 1, item(2, agent="triage")), "taken", 2, False, rule_1=1, rule_2=2),
        asked(41, "token_revoked"),
        heard(41, heartbeat(41, 2), "taken", 2, True, rule_1=1, rule_2=2),
        asked(41, "good", epoch=2),
    ],
    "rules make nothing younger": [
        heard(0, snapshot(0, 1, ONE), "taken", 1, True, rule_1=1),
        heard(9, rule(9, 1, item(2, agent="b")), "taken", 2, True, rule_1=1, rule_2=2),
        asked(12, "view_stale"),
    ],
    "statements that are not the broker's, or not understood, are refused": [
        heard(0, snapshot(0, 1, ONE), "taken", 1, True, rule_1=1),
        *(
            heard(1, event, "refused", 1, True, rule_1=1)
            for event in (
                heartbeat(1, 1, key=STRANGER),
                heartbeat(1, 1, key=CLAIMING),
                heartbeat(1, 1, iss="https://evil.example"),
                heartbeat(1, 1, exp=START - 100),
                heartbeat(1_000, 1),
                heartbeat(1, 1, weather="fine"),
                heartbeat(1, 1, "p", "p"),
                heartbeat(1, -1),
                heartbeat(1, 2**53),
                heartbeat(1, 1, mark=""),
                rule(1, 1, item(2, planet="mars")),
                rule(1, 1, item(2)),
                rule(1, 1, item(2, agent="")),
                rule(1, 1, item(2, everything=True, agent="b")),
                rule(1, 2, item(2, agent="b")),
                rule(1, 1, item(2, agent="b"), n="2"),
                rule(1, 1, item(2, agent="b"), by="mallory"),
                rule(1, 1, item(None, name=HELD, agent="b"), ends=START + 900),
                snapshot(1, 1, item(2, agent="b")),
                snapshot(1, 2, ONE, ONE),
                snapshot(1, 2, ONE, item(1, name="rule_x", agent="b")),
                {"event": "rule", "data": heartbeat(1, 1)["data"]},
                {"event": "heartbeat", "data": snapshot(1, 1, ONE)["data"]},
                {"event": "weather", "data": heartbeat(1, 1)["data"]},
                {"event": "heartbeat", "data": heartbeat(1, 1)["data"][:-8] + "AAAAAAAA"},
                {"event": "heartbeat", "data": heartbeat(1, 1)["data"] + "\n" + heartbeat(1, 1)["data"]},
                {"event": "heartbeat", "data": "{}"},
                {"event": "heartbeat", "data": ""},
            )
        ),
        heard(1, heartbeat(1, 1, sub="x", jti="y", nbf=START, aud=["z"]), "taken", 1, True, rule_1=1),
    ],
    "tokens that are no good are refused whatever the rules": [
        heard(0, snapshot(0, 1), "taken", 1, True),
        asked(0, "good"),
        asked(0, "token_audience", aud="https://payments.internal"),
        asked(0, "token_audience", aud=AUDIENCE + "/"),
        asked(0, "token_expired", exp=START),
        asked(0, "token_invalid", iss="https://evil.example"),
        asked(0, "token_invalid", key=STRANGER),
        asked(0, "token_invalid", key=CLAIMING),
        asked(0, "token_invalid", key=RETIRED),
        asked(0, "token_invalid", typ="JWT"),
        asked(0, "token_invalid", typ="broker-rules+jwt"),
        asked(0, "good", epoch=900),
    ],
}


def main() -> None:
    """Write the file beside this one."""
    document = {
        "issuer": ISSUER,
        "audience": AUDIENCE,
        "max_staleness": MAX_STALENESS,
        "leeway": LEEWAY,
        "jwks": {"keys": [KEY.published()]},
        "sequences": [{"name": name, "steps": steps} for name, steps in SEQUENCES.items()],
    }
    Path(__file__).with_name("verifier.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
