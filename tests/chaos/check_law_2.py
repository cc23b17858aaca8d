"""Prove or refute what revocation promises, from a ledger and from what clients wrote down; without the broker's code.

    python check_law_2.py JOURNALS ledger.db [--brokers-within S] [--verifiers-within S] [--note FILE [--vkey VKEY]]
    python check_law_2.py JOURNALS export.jsonl --note FILE --vkey VKEY

JOURNALS is a folder of JSON Lines, one file for each client (``tests/chaos/journal.py`` says what is in them). It finds

* tokens that a client got, or a verifier accepted, and that are not in the ledger exactly once;
* revocations that were acknowledged as durable, and are not there exactly once, with the number they were told;
* rules without their turn, and tokens whose epoch is not that of the ledger where they stand (law 2);
* grants while a block covered them;
* tokens accepted after the call said that a rule that kills them is applied; or, at brokers and verifiers, longer
  after it was durable than their bound, if that is given;
* whatever ``docs/verify_ledger.py`` finds wrong with the tree.

It ends with 0 and one line of figures if there is nothing, with 1 and a line for each thing found, with 2 if there is
nothing to judge.
"""

from __future__ import annotations

import argparse
import base64
import json
import runpy
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from typing import Any

VERIFIER = Path(__file__).parents[2] / "docs" / "verify_ledger.py"
SALT = 16
BROKER = "broker:"
"""How the names of those begin that judge tokens by introspection."""

Line = dict[str, Any]
Facts = frozenset[tuple[str, str]]


@dataclass(slots=True)
class Found:
    """What the ledger says. ``entries`` counts how often a token or a rule stands in it, by its id."""

    entries: Counter[str] = field(default_factory=Counter)
    epochs: dict[str, int] = field(default_factory=dict)
    rules: dict[str, tuple[int, Facts]] = field(default_factory=dict)
    size: int = 0


@dataclass(frozen=True, slots=True)
class Bound:
    """From which moment (monotonic seconds) nobody may accept what a rule kills; by whom, in the words of the call."""

    number: int
    selector: Facts
    everybody: float
    brokers: float
    verifiers: float

    def ends(self, by: str) -> float:
        """The moment for one place."""
        return min(self.everybody, self.brokers if by.startswith(BROKER) else self.verifiers)


@dataclass(frozen=True, slots=True)
class Token:
    """What a token says of itself."""

    epoch: int
    facts: Facts


def main() -> int:
    """Judge what the arguments name."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("journals", type=Path, help="a folder with the clients' journals (*.jsonl)")
    parser.add_argument("ledger", type=Path, help="a database file or an export as JSON Lines")
    parser.add_argument("--brokers-within", type=float, default=inf, metavar="S", help="the brokers' own bound")
    parser.add_argument("--verifiers-within", type=float, default=inf, metavar="S", help="the verifiers' own bound")
    parser.add_argument("--note", type=Path, help="a checkpoint of the ledger that was kept elsewhere")
    parser.add_argument("--vkey", help="the verifier key of the checkpoints")
    asked = parser.parse_args()
    try:
        problems = list(judged(asked))
    except (OSError, ValueError, KeyError, sqlite3.Error) as error:
        print(f"cannot be judged: {error!r}", file=sys.stderr)
        return 2
    for problem in problems:
        print(problem)
    return 1 if problems else 0


def judged(asked: argparse.Namespace) -> Iterator[str]:
    """Yield what is wrong; the figures go to standard output when all was read."""
    found, counted = Found(), Counter[str]()
    yield from _tree(asked)
    yield from _ledger(_entries(asked.ledger), found)
    tokens, bounds = dict[str, Token](), list[Bound]()
    yield from _received(_lines(asked.journals), found, tokens, counted)
    yield from _revoked(_lines(asked.journals), found, bounds, counted, asked)
    yield from _accepted(_lines(asked.journals), tokens, bounds, counted)
    if not (found.size and counted["received"] and counted["accepted"]):
        raise ValueError(f"too little to mean anything: {found.size} entries, {dict(counted)}")
    print(json.dumps({"entries": found.size, "rules": len(found.rules), **counted}))


# --- the ledger -------------------------------------------------------------------------------------------------------


def _tree(asked: argparse.Namespace) -> Iterator[str]:
    more = [] if asked.note is None else ["--note", str(asked.note)]
    more += [] if asked.vkey is None else ["--vkey", asked.vkey]
    command = [sys.executable, str(VERIFIER), str(asked.ledger), *more]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        yield from (f"the tree: {line}" for line in (done.stdout + done.stderr).splitlines())


def _entries(path: Path) -> Iterator[Line]:
    """Yield the entries in their order, each with what is personal in it."""
    for seq, body, _leaf, personal in runpy.run_path(str(VERIFIER))["_entries"](path):
        members = json.loads(personal[SALT:]) if personal else {}
        yield {"seq": seq, **json.loads(body), **members}


def _ledger(entries: Iterable[Line], found: Found) -> Iterator[str]:
    """Walk through the ledger as it grew: at each place there is one epoch, and there are the blocks in force.

    A block is over when an entry after it is dated so late, by whichever clock: setting that back does not revive it.
    """
    epoch = 0
    blocks: dict[str, tuple[Facts, float]] = {}
    for entry in entries:
        found.size += 1
        blocks = {name: block for name, block in blocks.items() if entry["at"] / 1000 < block[1]}
        where, kind = f"entry {entry['seq']}", entry["kind"]
        if kind in ("rule.added", "ledger.restore_accepted"):
            if entry["number"] != epoch + 1 and not (kind != "rule.added" and entry["number"] > epoch):
                yield f"{where}: the rule {entry['ref']} has number {entry['number']} after epoch {epoch}"
            epoch, selector = entry["number"], _selector(entry["selector"])
            found.entries[entry["ref"]] += 1
            found.rules[entry["ref"]] = (epoch, selector)
            if "block" in entry:
                blocks[entry["block"]["id"]] = (selector, entry["block"].get("until", inf))
        elif kind == "block.lifted":
            blocks.pop(entry["ref"], None)
        elif kind == "token.issued":
            found.entries[entry["ref"]] += 1
            found.epochs[entry["ref"]] = entry["epoch"]
            if entry["epoch"] != epoch:
                yield f"{where}: the token {entry['ref']} has epoch {entry['epoch']}, and there are {epoch} rules"
            facts = _granted(entry)
            for name, (selector, _) in blocks.items():
                if _covers(selector, facts):
                    yield f"{where}: the token {entry['ref']} was granted in spite of the block {name}"


def _granted(entry: Line) -> Facts:
    """Return the facts of a token from its entry."""
    lines = [line.partition("=") for line in entry.get("lineage", "").split("\n") if line]
    return frozenset(
        {
            *(("token", one) for one in (entry["ref"], *entry.get("parents", ()))),
            *(("task", one) for one in (entry["task"], *entry.get("path", ()))),
            *(("agent", one) for one in (entry["agent"], *entry.get("actors", ()))),
            *(("agent", entry[name]) for name in ("on_behalf_of",) if name in entry),
            *(("scope", one) for one in entry["scope"].split()),
            *(("key", entry[name]) for name in ("key", "bound_key") if name in entry),
            *((name, entry[name]) for name in ("role", "audience", "tier", "issuer")),
            *((name, value) for name, _, value in lines),
        }
    )


# --- tokens and rules -------------------------------------------------------------------------------------------------


def _token(jwt: str) -> tuple[str, Token]:
    """Read a token without its signature: what it says of itself is what its holder was given."""
    head, payload, _ = (base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)) for part in jwt.split("."))
    kid, claims = json.loads(head)["kid"], json.loads(payload)
    private, act = claims["broker"], claims.get("act")
    agents = [claims["sub"], claims["client_id"], *private.get("via", ())]
    while act:
        agents.append(act["sub"])
        act = act.get("act")
    facts = {
        *(("token", one) for one in (claims["jti"], *private.get("parents", ()))),
        *(("task", one) for one in (private["task"], *private.get("path", ()))),
        *(("agent", one) for one in agents),
        *(("scope", one) for one in claims["scope"].split()),
        *(("key", one) for one in (kid, claims.get("cnf", {}).get("jkt")) if one),
        *((name, one) for name, values in private.get("inherited", {}).items() for one in values),
        *((name, private[name]) for name in ("role", "tier", "issuer")),
        ("audience", claims["aud"]),
    }
    return claims["jti"], Token(private["epoch"], frozenset(facts))


def _selector(told: Mapping[str, Any]) -> Facts:
    """Return the facts that a credential must all have; none if it is everything."""
    return frozenset() if told.get("everything") is True else frozenset(told.items())


def _covers(selector: Facts, facts: Facts) -> bool:
    return selector <= facts


# --- what clients wrote down ------------------------------------------------------------------------------------------


def _lines(folder: Path) -> Iterator[Line]:
    for path in sorted(folder.glob("*.jsonl")):
        with path.open(encoding="utf-8") as lines:
            for line in lines:
                if line.endswith("\n"):  # else its writer was killed over it, and nobody was told
                    yield json.loads(line)


def _received(lines: Iterable[Line], found: Found, tokens: dict[str, Token], counted: Counter[str]) -> Iterator[str]:
    for line in lines:
        if line["what"] != "received":
            continue
        counted["received"] += 1
        jti, token = _token(line["jwt"])
        if jti in tokens:
            yield f"the token {jti} was given twice"
        tokens[jti] = token
        if found.entries[jti] != 1:
            yield f"the token {jti} was given, and is in the ledger {found.entries[jti]} times"
        elif found.epochs[jti] != token.epoch:
            yield f"the token {jti} says epoch {token.epoch}, and its entry {found.epochs[jti]}"


def _revoked(
    lines: Iterable[Line], found: Found, bounds: list[Bound], counted: Counter[str], asked: argparse.Namespace
) -> Iterator[str]:
    """Compare acknowledged revocations with the ledger, and put what they promise into ``bounds``."""
    keys: dict[str, str] = {}
    for line in lines:
        if line["what"] != "revoked" or not line["durable"]:
            continue
        counted["revoked"] += 1
        counted["applied"] += line["applied"]
        name, number, ended = line["id"], line["rule"], line["ended"]
        if keys.setdefault(line["key"], name) != name:
            yield f"one revocation became two rules: {keys[line['key']]} and {name}"
        if found.entries[name] != 1:
            yield f"the rule {name} was acknowledged, and is in the ledger {found.entries[name]} times"
        elif found.rules[name] != (number, _selector(line["selector"])):
            yield f"the rule {name} was acknowledged as {number}, {line['selector']}: {found.rules[name]} is there"
        applied = ended if line["applied"] else inf
        within = (ended + asked.brokers_within, ended + asked.verifiers_within)
        bounds.append(Bound(number, _selector(line["selector"]), applied, *within))


def _accepted(
    lines: Iterable[Line], tokens: Mapping[str, Token], bounds: list[Bound], counted: Counter[str]
) -> Iterator[str]:
    killers: dict[str, list[Bound]] = {}
    for line in lines:
        counted["refused"] += line["what"] == "refused"
        if line["what"] != "accepted":
            continue
        counted["accepted"] += 1
        jti, by = line["token"], line["by"]
        if jti not in tokens:
            yield f"the token {jti} was accepted by {by}, and nobody was given it"
            continue
        if jti not in killers:
            token = tokens[jti]
            killers[jti] = [one for one in bounds if one.number > token.epoch and _covers(one.selector, token.facts)]
        for bound in killers[jti]:
            if line["began"] > bound.ends(by):
                late = (line["began"] - bound.ends(by)) * 1000
                yield f"the token {jti} was accepted by {by} {late:.0f} ms after rule {bound.number} was in force there"


if __name__ == "__main__":
    sys.exit(main())
