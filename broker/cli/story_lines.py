"""A story from the ledger as lines of a tree. Texts from outside stand in quotes, shortened, and escaped."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from broker.cli.entry_line import entry_time
from broker.cli.output import moment, printable
from broker.cli.task import FLAG

MAX_TEXT: Final = 200
"""How much of a text from outside is shown, in characters."""

Entry = Mapping[str, Any]


def story_lines(answer: Mapping[str, Any]) -> list[str]:
    """Return the lines of a story; each ends with the place of its entry in the ledger."""
    lines = [line for node in answer["story"] for line in _lines(node, "", "")]
    if answer["cut"]:
        lines.append("There is more than this; broker ledger query shows all of it.")
    return lines


def _lines(node: Mapping[str, Any], first: str, rest: str) -> Iterator[str]:
    ended = "" if node["ended_by"] is None else f", ended by #{node['ended_by']}"
    yield printable(f"{first}{entry_time(node['entry'])}  {words_of(node['entry'])}{ended}  #{node['seq']}")
    below = node["below"]
    for place, child in enumerate(below):
        last = place == len(below) - 1
        yield from _lines(child, rest + ("└─ " if last else "├─ "), rest + ("   " if last else "│  "))


def words_of(entry: Entry) -> str:
    """Return what happened, in words."""
    return _WORDS[entry["kind"]](entry) if entry["kind"] in _WORDS else _plainly(entry)


def _said(text: object) -> str:
    """Return a text from outside in quotes that it cannot end."""
    shown = text if isinstance(text, str) else printable(text)
    escaped = shown[:MAX_TEXT].replace("\\", "\\\\").replace('"', '\\"')
    return f'"{printable(escaped)}{"…" if len(shown) > MAX_TEXT else ""}"'


def _if(entry: Entry, name: str, before: str) -> str:
    """Return a member that is a text from outside, if there is one."""
    return f"{before}{_said(entry[name])}" if name in entry else ""


def _ours(entry: Entry, name: str, before: str) -> str:
    """Return a member that the broker itself named, if there is one."""
    return f"{before}{entry[name]}" if name in entry else ""


def _who(entry: Entry) -> str:
    behalf = entry.get("on_behalf_of")
    return str(entry.get("agent")) + ("" if behalf in (None, entry.get("agent")) else f" for {behalf}")


def _opened(entry: Entry) -> str:
    said = (FLAG if entry.get("flagged") else "") + _said(entry.get("purpose"))
    return f"task {entry.get('ref')} opened by {_who(entry)} as {entry.get('role')}: {said}"


def _issued(entry: Entry) -> str:
    until = f", until {moment(entry.get('expires_at'))}"
    allowed = _ours(entry, "approval", ", approved in ") + _if(entry, "break_glass", ", break-glass: ")
    what = f"{entry.get('scope', '')} at {entry.get('audience')}"
    return f"token {entry.get('ref')} to {_who(entry)} as {entry.get('role')}: {what}{allowed}{until}"


def _refused(entry: Entry) -> str:
    what = "".join(_if(entry, name, " ") for name in ("action", "secret", "scope")) + _if(entry, "audience", " at ")
    why = f"{entry.get('code')}: {_said(entry.get('reason'))}"
    return f"{entry['kind'].partition('.')[0]} refused to {_who(entry)}:{what}: {why}"


def _reserved(entry: Entry) -> str:
    count = "" if entry.get("count") in (None, 1) else f" {entry['count']} times"
    target = f" on {_said(entry['target'])}" if "target" in entry else ""
    approved = _ours(entry, "approval", ", approved in ")
    done = f"{entry.get('ref')} {entry.get('action')}{count}{target}"
    return f"action {done} by {_who(entry)}, reserved by {entry.get('by')}{approved}"


def _settled(entry: Entry) -> str:
    return f"{entry.get('outcome')}" + (f": {_said(entry['result'])}" if "result" in entry else "")


def _asked(entry: Entry) -> str:
    what = _said(entry.get("asked", {}))
    needs = f"{entry.get('quorum')} of {entry.get('approvers')}"
    return f"approval {entry.get('ref')} asked for by {entry.get('agent')}, needs {needs}: {what}"


def _voted(entry: Entry) -> str:
    verb = "approved" if entry.get("approve") else "denied"
    return f"{verb} by {entry.get('by')}: {_said(entry.get('reason'))}"


def _ended(entry: Entry) -> str:
    return f"lease ended: {entry.get('because')}{_ours(entry, 'rule', ', rule ')}{_ours(entry, 'by', ', by ')}"


def _ruled(entry: Entry) -> str:
    incident = _if(entry, "incident", ", incident ")
    covers = printable(entry.get("selector"))
    return f"rule {entry.get('number')} by {entry.get('by')} for {covers}{incident}: {_said(entry.get('reason'))}"


def _propagated(entry: Entry) -> str:
    applied = f"{entry.get('replicas_applied')} of {entry.get('replicas')} replicas"
    if entry.get("verifiers"):
        applied += f" and {entry.get('verifiers_applied')} of {entry.get('verifiers')} verifiers"
    took = f", the slowest after {entry['slowest_ms']} ms" if "slowest_ms" in entry else ""
    late = f"; may still accept it: {_said(entry['waiting_for'])}" if "waiting_for" in entry else ""
    silent = f"; refused everything by themselves: {_said(entry['refusing'])}" if "refusing" in entry else ""
    return f"applied by {applied}{took}{late}{silent}"


def _closed(entry: Entry) -> str:
    return f"task closed, {entry.get('because')}, by {entry.get('by')}: {_said(entry.get('reason'))}"


def _plainly(entry: Entry) -> str:
    named = ("agent", "by", "resource", "count", "status", "attempts", "error", "note", "code", "reason")
    return " ".join([entry["kind"], *(f"{name} {_said(entry[name])}" for name in named if name in entry)])


_WORDS: Final[Mapping[str, Callable[[Entry], str]]] = {
    "task.opened": _opened,
    "task.closed": _closed,
    "token.issued": _issued,
    "token.refused": _refused,
    "identity_token.issued": _issued,
    "identity_token.refused": _refused,
    "lease.intended": lambda entry: f"lease {entry.get('ref')} of {entry.get('secret')} to {_who(entry)}",
    "lease.sealed": lambda entry: f"secret handed out, until {moment(entry.get('until'))}",
    "lease.refused": _refused,
    "lease.renewed": lambda entry: f"lease renewed until {moment(entry.get('until'))}",
    "lease.ended": _ended,
    "lease.settled": lambda entry: f"lease {entry.get('status')}{_if(entry, 'note', ': ')}",
    "action.reserved": _reserved,
    "action.refused": _refused,
    "action.settled": _settled,
    "approval.requested": _asked,
    "approval.voted": _voted,
    "approval.reviewed": lambda entry: f"reviewed by {entry.get('by')}: {_said(entry.get('reason'))}",
    "rule.added": _ruled,
    "rule.propagated": _propagated,
}
