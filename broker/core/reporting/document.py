"""The report itself, in Markdown. What comes from the ledger is only ever shown through :func:`markdown.text`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from broker.core.entry import Kind
from broker.core.reporting.controls import FRAMEWORKS, Framework
from broker.core.reporting.counted import Counted, Counts
from broker.core.reporting.evidence import Events, Evidence
from broker.core.reporting.markdown import heading, table, text

MAX_ROWS: Final = 100
"""How many values of a count are shown."""

_NONE: Final = "None in this time."
_NUMBER: Final = ("number", "entries, for example")


@dataclass(frozen=True, slots=True)
class Integrity:
    """What verifying the whole ledger found; ``trust`` and ``problems`` are in words."""

    sound: bool
    entries: int
    root: str | None
    checkpoints: int
    signatures: int
    voucher: str | None
    trust: Sequence[str]
    problems: Sequence[str]
    problem_count: int


def report(evidence: Evidence, integrity: Integrity, *, since: float, until: float, made_at: float) -> str:
    """Return the report on the time from ``since`` until ``until``; all times are Unix seconds."""
    lines = [
        *heading(1, "What the broker's ledger proves"),
        f"From {_moment(since)} until {_moment(until)}, made at {_moment(made_at)} from the ledger alone. Numbers of",
        "entries are their places in it: `broker ledger show N` prints one, `broker ledger query` finds others.",
        "",
        *_integrity(integrity),
        *_anchors(evidence),
        *_issuance(evidence),
        *_refusals(evidence),
        *_approvals(evidence),
        *_revocations(evidence),
        *_operation(evidence),
        *heading(2, "All entries of this time, by kind"),
        *_counts("kind", evidence.kinds),
        *heading(2, "Requirements that this bears on"),
        "Each line says what the broker does about a requirement, and what it leaves to others. It does not say that",
        "the requirement is met. Files are those of the broker's project.",
        "",
        *(line for framework in FRAMEWORKS for line in _framework(framework, evidence.kinds)),
    ]
    return "\n".join(lines).rstrip() + "\n"


def _integrity(integrity: Integrity) -> Iterator[str]:
    yield from heading(2, "Integrity of the record")
    verdict = "sound" if integrity.sound else f"NOT sound: {integrity.problem_count:,} problems"
    rows = [
        ("the whole ledger", verdict),
        ("entries", f"{integrity.entries:,}"),
        ("root of their tree (RFC 6962)", text(integrity.root)),
        ("checkpoints, and signatures verified", f"{integrity.checkpoints:,}, {integrity.signatures:,}"),
        ("the largest checkpoint that vouches for them", text(integrity.voucher)),
    ]
    yield from table(("what", "found"), rows, _NONE)
    yield from (f"* {text(line)}" for line in (*integrity.trust, *integrity.problems))
    yield ""


def _anchors(evidence: Evidence) -> Iterator[str]:
    yield from heading(3, "Anchors: checkpoints that are held elsewhere, as the broker recorded it")
    rows = [(text(name), f"{size:,}", _moment(at)) for name, (size, at) in evidence.anchored.items()]
    yield from table(("anchor", "covers entries", "placed at"), rows, "There are none.")
    for kind in (Kind.ANCHOR_FAILED, Kind.ANCHOR_RECOVERED):
        yield from _told(evidence.events[kind], ("anchor", "code", "reason"), kind)


def _issuance(evidence: Evidence) -> Iterator[str]:
    yield from heading(2, "Credentials issued")
    for name, counts in evidence.issued.items():
        yield from heading(3, f"By {name}")
        yield from _counts(name, counts)


def _refusals(evidence: Evidence) -> Iterator[str]:
    yield from heading(2, "Refusals")
    yield from _counts("code", evidence.refused)
    yield from heading(3, "Strangers")
    yield "Callers without an identity, counted together."
    yield ""
    yield from _counts("reason", evidence.strangers)


def _approvals(evidence: Evidence) -> Iterator[str]:
    approvals = evidence.approvals
    yield from heading(2, "Decisions of people")
    yield f"{approvals.asked:,} requests, {approvals.approved:,} votes for and {approvals.denied:,} against."
    yield ""
    rows = [
        (
            request.seq,
            text(request.agent),
            text(request.wants),
            request.outcome,
            ", ".join(f"{text(by)} (entry {seq})" for seq, by, _ in request.votes) or "-",
            "-" if request.decided_at is None else f"{(request.decided_at - request.asked_at) / 1000:.0f}",
        )
        for request in approvals.requests.values()
    ]
    yield from table(("entry", "agent", "kind", "outcome", "decided by", "seconds"), rows, _NONE)
    yield from heading(3, "Break-glass uses")
    yield from _told(evidence.break_glass, ("agent", "role", "break_glass", "approval"))


def _revocations(evidence: Evidence) -> Iterator[str]:
    yield from heading(2, "Revocations")
    yield f"{evidence.revocations.total:,} rules. *Tokens* are those that a rule covered while their time was not over."
    yield "*Confirmed* is how long it took, from the rule, until each lease that it ended had its backend's word or was"
    yield "given up. *Applied* is how many of the replicas and verifiers that were known said that they refuse what it"
    yield "hits, and after which time the last of them had; a broker that nobody listens to records none."
    yield ""
    rows = [
        (
            rule.seq,
            _moment(rule.members["at"] / 1000),
            text(_selector(rule.members.get("selector"))),
            text(rule.members.get("by")),
            text(rule.members.get("reason")),
            text(rule.members.get("incident")),
            "-" if rule.tokens is None else f"{rule.tokens:,}",
            f"{rule.leases:,}",
            ", ".join(f"{count} {text(status)}" for status, count in rule.outcomes.most_common()) or "-",
            "-" if rule.seconds is None else f"{rule.seconds:.1f} s",
            _applied(rule.propagated),
        )
        for rule in evidence.revocations.rules.values()
    ]
    columns = (
        "entry",
        "at",
        "selector",
        "by",
        "reason",
        "incident",
        "tokens",
        "leases",
        "outcomes",
        "confirmed",
        "applied",
    )
    yield from table(columns, rows, _NONE)
    yield from heading(3, "Leases that got stuck")
    yield from _told(evidence.stuck, ("ref", "agent", "secret", "backend", "attempts", "error"))
    yield from heading(3, "Blocks lifted, and other orders")
    for kind in (Kind.BLOCK_LIFTED, Kind.PREFIX_REVOKED, Kind.LEASES_CONFIRMED):
        yield from _told(evidence.events[kind], ("by", "reason"), kind)


def _applied(members: Mapping[str, Any] | None) -> str:
    """Return who applied a rule, and who had neither done so nor refused everything by then."""
    if members is None:
        return "-"
    told = [f"{members.get(f'{who}_applied')} of {members.get(who)} {who}" for who in ("replicas", "verifiers")]
    if "slowest_ms" in members:
        told.append(f"{members['slowest_ms']} ms")
    for name, what in (("waiting_for", "not by"), ("refusing", "refused everything")):
        if name in members:
            told.append(f"{what}: {_named(members[name])}")
    return text(", ".join(told))


def _named(names: object) -> str:
    return " ".join(map(str, names)) if isinstance(names, list) else "-"


def _operation(evidence: Evidence) -> Iterator[str]:
    yield from heading(2, "Operation")
    for kind, names in (
        (Kind.KEYS_ROTATED, ("by", "reason", "keys")),
        (Kind.POLICY_LOADED, ("by", "policy")),
        (Kind.AGENT_REGISTERED, ("agent", "by")),
        (Kind.AGENT_REMOVED, ("agent", "by")),
        (Kind.BROKER_STARTED, ("version",)),
        (Kind.CLOCK_STEPPED, ("milliseconds",)),
        (Kind.LEDGER_ARCHIVED, ("first", "end", "archive", "digest", "by")),
    ):
        yield from heading(3, f"Entries `{kind.value}`")
        yield from _told(evidence.events[kind], names)


def _framework(framework: Framework, kinds: Counts) -> Iterator[str]:
    yield from heading(3, framework.name)
    yield f"Source: {framework.source}."
    yield ""
    rows = [
        (
            f"{control.requirement}: {control.name}",
            control.does or "Nothing.",
            control.leaves,
            "; ".join(_shown(control.kinds, kinds)) or "-",
            ", ".join(f"`{path}`" for path in control.shown_by) or "-",
        )
        for control in framework.controls
    ]
    columns = ("requirement", "what the broker does", "what it leaves", "in the ledger", "held to it by")
    yield from table(columns, rows, _NONE)


def _shown(wanted: Sequence[str], kinds: Counts) -> Iterator[str]:
    """Yield how many entries of each kind there are in the time of the report, and where."""
    for kind in wanted:
        counted = kinds.get(kind)
        yield f"`{kind}`: none" if counted is None else f"`{kind}`: {_numbers(counted)}"


def _counts(name: str, counts: Counts) -> list[str]:
    rows = [(text(value), f"{counted.count:,}", counted.places()) for value, counted in counts.most()]
    lines = table((name, *_NUMBER), rows[:MAX_ROWS], _NONE)
    if len(rows) > MAX_ROWS:
        lines += [f"And {len(rows) - MAX_ROWS:,} others.", ""]
    return lines


def _told(events: Events, names: Sequence[str], what: str | None = None) -> list[str]:
    """Return a table of events with some of their members."""
    rows = [
        (seq, _moment(members["at"] / 1000), *(text(_plain(members.get(name))) for name in names))
        for seq, members in events.told
    ]
    title = [] if what is None else [f"`{what}`:", ""]
    lines = [*title, *table(("entry", "at", *names), rows, _NONE)]
    if (more := events.counted.count - len(rows)) > 0:
        lines += [f"And {more:,} more, the last of which is entry {events.counted.last}.", ""]
    return lines


def _numbers(counted: Counted) -> str:
    return f"{counted.count:,} (entries {counted.places()})"


def _selector(selector: object) -> str:
    """Return a selector as ``name=value`` pairs."""
    if not isinstance(selector, dict):
        return "-"
    return " ".join(f"{name}={_plain(value)}" for name, value in selector.items())


def _plain(value: Any) -> object:  # noqa: ANN401 - a JSON value
    """Return a member for a cell: of lists of objects, such as keys, only how many there are."""
    return f"{len(value)} items" if isinstance(value, list | dict) else value


def _moment(seconds: float) -> str:
    try:
        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (OverflowError, ValueError, OSError):
        return str(seconds)
