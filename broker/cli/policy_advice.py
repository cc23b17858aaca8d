"""``broker policy advise``: what was used of the policy, and a narrower one as a diff of its file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Final

import msgspec
import typer

from broker.cli.options import DEFAULT_CONFIG, ConfigFile, Json, Port, settings
from broker.cli.outcome import ExitCode, Failure, unusable
from broker.cli.output import Facts, Part, Table, moment, note, show
from broker.cli.session import call
from broker.clock import SystemClock
from broker.core.advice import Edit, Proposal
from broker.core.lifetime import format_duration
from broker.core.proposing import advise
from broker.core.widening import broadened

DEFAULT_DAYS: Final = 30
MAX_DAYS: Final = 3660
STDOUT: Final = "-"

_DAY: Final = 24 * 3600
_TIMES: Final = frozenset({"task_ttl"})
_EDITS: Final = {
    Edit.REMOVE_ROLE: "remove the role",
    Edit.REMOVE_SCOPE: "remove {name} from allow[{line}]",
    Edit.REMOVE_SECRET: "remove {name}, allow[{line}]",
    Edit.REMOVE_MEMBER: "remove members[{line}]",
    Edit.REMOVE_DELEGATE: "remove {name} from may_delegate_to",
    Edit.REMOVE_ACTION: "remove {name} from limits.actions",
    Edit.SET_TTL: "allow[{line}].max_ttl: {value}",
    Edit.SET_LIMIT: "limits.{name}: {value}",
    Edit.SET_ACTION: "limits.actions.{name}: {value}",
}


def command(
    *,
    role: Annotated[str | None, typer.Option(metavar="NAME", help="Only this role.")] = None,
    days: Annotated[int, typer.Option(min=1, max=MAX_DAYS, help="How far back to look.")] = DEFAULT_DAYS,
    diff: Annotated[
        str | None, typer.Option(metavar="FILE", help="Write the proposal as a diff to FILE; - prints it and no more.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Judge roles that are younger than that, too.")] = False,
    policy: Annotated[
        Path | None, typer.Option("--policy", metavar="FILE", help="The policy file; without it that of the settings.")
    ] = None,
    file: Annotated[
        Path | None, typer.Option("--file", metavar="LEDGER", help="Read this ledger file; needs no broker.")
    ] = None,
    config: ConfigFile = None,
    port: Port = None,
    as_json: Json = False,
) -> None:
    """Hold the policy against what was used of it, and propose a narrower one. Changes nothing."""
    if diff is not None and as_json:
        raise unusable("--diff: stands alone, without --json")
    if file is not None:
        answer = _offline(file, _Local.read(policy, config, port), role, days, force=force)
    else:
        query = {"role": role, "days": days, "force": "true" if force else None}
        answer = call(
            settings(config, port), lambda session: session.get("/v1/policy/advice", "operator:read", **query)
        )
    if diff is not None:
        _write(diff, answer["proposals"], _diff(_Local.read(policy, config, port), answer))
    if diff != STDOUT:
        show(answer, *_parts(answer), as_json=as_json)


class _Local:
    """A policy file on this machine, for the broker of the settings."""

    def __init__(self, path: Path, text: str, issuer: str) -> None:
        from broker.policy_file import compile_text  # noqa: PLC0415 - loads YAML, which few commands need

        self.path, self.text, self.issuer = path, text, issuer
        self.policy = compile_text(path, text, issuer)

    @classmethod
    def read(cls, path: Path | None, config: Path | None, port: int | None) -> _Local:
        """Read the file. Raises ``Failure``, or ``PolicyError`` with every problem of it."""
        if path is not None and config is None and not DEFAULT_CONFIG.exists():
            raise unusable("--config: the settings say which broker the policy is for", "config_missing")
        loaded = settings(config, port)
        path = path or loaded.policy
        try:
            return cls(path, path.read_bytes().decode("utf-8"), loaded.issuer)
        except OSError as error:
            raise unusable(f"{path}: cannot be read ({error.strerror})") from error
        except UnicodeDecodeError as error:
            raise unusable(f"{path}: is not UTF-8") from error


def _offline(ledger: Path, local: _Local, role: str | None, days: int, *, force: bool) -> dict[str, Any]:
    from broker.ledger.reading.usage_file import count_usage  # noqa: PLC0415 - loads the ledger, which few commands need

    if role is not None and role not in local.policy.roles:
        raise unusable("--role: the policy has no role of this name")
    now = SystemClock().now()
    usage = count_usage(ledger, now - days * _DAY)
    answer: dict[str, Any] = msgspec.to_builtins(advise(local.policy, usage, until=now, role=role, force=force))
    return answer


def _diff(local: _Local, answer: dict[str, Any]) -> str:
    """Return the proposals as a diff of the file, once it is shown that they only make it narrower."""
    from broker.policy_edits import edited, unified_diff  # noqa: PLC0415 - loads YAML, which few commands need
    from broker.policy_file import compile_text  # noqa: PLC0415 - as above

    if local.policy.digest != answer["policy"]:
        text = f"{local.path} is not the policy in force; reload it first, or name the right one with --policy"
        raise Failure(ExitCode.REFUSED, "policy_differs", text)
    proposals = msgspec.convert(answer["proposals"], list[Proposal])
    after = edited(local.path, local.text, proposals)
    more = broadened(local.policy, compile_text(local.path, after, local.issuer))
    if more:
        text = f"the proposal would not only be narrower, so it is not made: {more[0]}"
        raise Failure(ExitCode.REFUSED, "proposal_wider", text)
    return unified_diff(str(local.path), local.text, after)


def _write(place: str, proposals: list[Any], diff: str) -> None:
    if not proposals:
        note("There is nothing to propose.")
    if place == STDOUT:
        print(diff, end="")
        return
    try:
        Path(place).write_text(diff, encoding="utf-8", newline="")
    except OSError as error:
        raise unusable(f"--diff: {place}: cannot be written ({error.strerror})") from error


def _parts(answer: dict[str, Any]) -> Iterator[Part]:
    since = [("since", moment(answer["since"])), ("until", moment(answer["until"])), ("policy", answer["policy"])]
    yield Facts("What was used of the policy", since)
    for role in answer["roles"]:
        yield from _role(role)
    rows = [(made["role"], _edit(made), made["because"]) for made in answer["proposals"]]
    yield Table(("role", "proposal", "because"), rows, "There is nothing to propose.")
    if rows:
        yield "As a diff of the policy file:  broker policy advise --diff -"
    for text in answer["notes"]:
        yield f"Note: {text}."


def _role(role: dict[str, Any]) -> Iterator[Part]:
    since = role["unchanged_since"]
    known = "not known" if since is None else moment(since)
    judged = "" if role["judged"] else " (reported only: --force judges it)"
    yield f"Role {role['role']}, as it is since: {known}{judged}"
    rows: list[tuple[object, ...]] = [
        (
            f"{found['scope']} at {found['audience']}",
            format_duration(found["allowed"]),
            f"{found['tokens']:,} tokens",
            "-" if found["longest"] is None else _seconds(found["longest"]),
            moment(found["last_at"]),
        )
        for found in role["scopes"]
    ]
    rows += [
        (
            f"the secret {found['secret']}",
            format_duration(found["allowed"]),
            f"{found['leases']:,} leases",
            "-" if found["longest"] is None else _seconds(found["longest"]),
            moment(found["last_at"]),
        )
        for found in role["secrets"]
    ]
    rows += [(found["name"], *_limit(found), None, None) for found in role["limits"]]
    rows += [(f"member {found['line']}", None, f"{found['tokens']:,} tokens", None, None) for found in role["members"]]
    rows += [
        (f"delegate {found['role']}", None, f"{found['tokens']:,} tokens", None, None) for found in role["delegates"]
    ]
    yield Table(("granted", "at most", "used", "longest", "last"), rows, "Nothing was found.")
    for text in role["notes"]:
        yield f"Kept: {text}."


def _limit(found: dict[str, Any]) -> tuple[str, str]:
    """Return a limit and the most that was seen. Tokens a minute are counted in stretches that are a bit longer."""
    allowed, most = found["allowed"], found["most"]
    if found["name"] in _TIMES:
        return _seconds(allowed), _seconds(most)
    return "no limit" if allowed is None else f"{allowed:,}", f"{most:,} at most"


def _seconds(value: int | None) -> str:
    return "-" if not value else format_duration(value)


def _edit(made: dict[str, Any]) -> str:
    name, value = made["name"], made["value"]
    shown = format_duration(value) if made["edit"] == Edit.SET_TTL or name in _TIMES else value
    return _EDITS[Edit(made["edit"])].format(name=name, line=made["line"], value=shown)
