"""What ``broker policy reload`` says: what the new policy narrows, and what becomes of what is alive of it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from broker.cli.output import Facts, Part, Table

_COLUMNS = ("narrower", "covers", "alive", "until", "then")


def reload_parts(answer: dict[str, Any]) -> Iterator[Part]:
    """Yield what there is to say about an answer of ``POST /v1/policy/reload``, for people."""
    effects, preview = answer["narrowing"], answer["preview"]
    title = "What a reload would do (nothing was changed)" if preview else "The policy is in force"
    yield Facts(title, [("digest", answer["policy"]), ("on_narrowing", answer["on_narrowing"])])
    if not effects:
        yield "It narrows nothing." if preview else "It narrowed nothing."
        return
    rows = [(effect["reasons"], _covered(effect), *_alive(effect), _fate(answer, effect)) for effect in effects]
    yield Table(_COLUMNS, rows, "")
    if any(effect["selector"] is not None and not effect["exact"] for effect in effects):
        yield "* covers some that the new policy allows, too: whoever may still have them asks again"
    for effect in effects:
        if effect["failure"] is not None:
            failure = effect["failure"]
            yield f"NOT revoked: {effect['selector']}: {failure['code']}: {failure['detail']}"
    if any(effect["durable"] is False for effect in effects):
        yield "Rules that are not durable are in force, and are written as soon as the ledger can be."


def _covered(effect: dict[str, Any]) -> object:
    if effect["selector"] is None:
        return "no grant can be told by it"
    told = ", ".join(f"{name} {value}" for name, value in effect["selector"].items())
    return told if effect["exact"] else f"{told} *"


def _alive(effect: dict[str, Any]) -> tuple[object, object]:
    hits = effect["hits"]
    if effect["selector"] is None:
        return None, None
    if hits is None:
        return "not counted", None
    leases = hits["leases"]["revocable"] + hits["leases"]["expires_only"]
    held = f" and {leases:,} leases" if leases else ""
    return f"{hits['tokens']:,} tokens{held} of {hits['agents']:,} agents", hits["latest_expiry"]


def _fate(answer: dict[str, Any], effect: dict[str, Any]) -> str:
    """Say what becomes of the grants that one selector covers."""
    if effect["selector"] is None:
        return "holds from now on"
    if answer["on_narrowing"] == "keep":
        return "stays alive until then"
    if answer["preview"]:
        return "would be revoked"
    if effect["failure"] is not None:
        return "NOT revoked"
    name = effect["id"] if effect["rule"] is None else effect["rule"]
    return f"revoked by rule {name}" + ("" if effect["durable"] else ", not durable yet")
