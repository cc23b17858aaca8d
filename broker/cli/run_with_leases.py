"""``broker exec``: run a program with leased secrets in its environment, and give them back when it ends."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Annotated, Final

import typer

from broker.cli.agent_options import Agent, AgentKey, AgentName, Dpop, DpopKeyFile, Wait, agent_of
from broker.cli.child import SIGNALLED, Child, check_program
from broker.cli.lease import LeaseTask, Ttl
from broker.cli.lease_variables import Delivery, deliveries, merged, variables
from broker.cli.memory_files import MemoryFiles
from broker.cli.options import ConfigFile, IssuerUrl, Json, Port, issuer_of
from broker.cli.outcome import unusable
from broker.cli.output import note, to_json
from broker.cli.signals import ENDING, HeldSignals, Received, held_signals
from broker.client import Client, LeasedSecret
from broker.client.client import PATIENCE_SECONDS
from broker.core.lifetime import parse_duration

_INTO: Final = "NAME[=ENVVAR]"


def command(
    program: Annotated[
        list[str], typer.Argument(metavar="-- PROGRAM [ARGUMENT]...", help="What to run, with its arguments.")
    ],
    *,
    agent: AgentName,
    key: AgentKey,
    lease: Annotated[
        list[str] | None,
        typer.Option("--lease", metavar=_INTO, help="Lease this secret into this variable; for each."),
    ] = None,
    file: Annotated[
        list[str] | None,
        typer.Option("--file", metavar=_INTO, help="Lease it into a file in memory, and its path into the variable."),
    ] = None,
    task: LeaseTask = None,
    ttl: Ttl = None,
    encrypted: Annotated[bool, typer.Option("--encrypted", help="Have secrets come encrypted to a fresh key.")] = False,
    break_glass: Annotated[
        str | None, typer.Option("--break-glass", metavar="REASON", help="Go ahead without the approval it needs.")
    ] = None,
    wait: Wait = 600,
    dpop: Dpop = False,
    dpop_key: DpopKeyFile = None,
    issuer_url: IssuerUrl = None,
    config: ConfigFile = None,
    port: Port = None,
    as_json: Json = False,
) -> None:
    """Run a program with leased secrets, renew them while it runs, and give them back when it ends."""
    wanted = deliveries(lease or [], file or [])
    if not wanted:
        raise unusable("name a secret with --lease or --file")
    check_program(program)
    who = agent_of(issuer_of(issuer_url, config, port), agent, key, wait, dpop=dpop, dpop_key=dpop_key)
    asked = _Asked(
        wanted=wanted,
        task=task,
        ttl=None if ttl is None else parse_duration(ttl, "--ttl"),
        encrypted=encrypted,
        break_glass=break_glass,
        as_json=as_json,
    )
    # Whoever started us may ignore the end of children; then nobody would know how the program ended.
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    with held_signals() as signals:
        code = _Run(who, asked, program, signals).run()
    raise typer.Exit(code)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Asked:
    """Which secrets are leased, into what, and how."""

    wanted: Sequence[Delivery]
    task: str | None
    ttl: int | None
    encrypted: bool
    break_glass: str | None
    as_json: bool

    def secrets(self) -> tuple[str, ...]:
        """Return each secret once, however often it is wanted."""
        return tuple(dict.fromkeys(each.secret for each in self.wanted))

    def of(self, client: Client, secret: str) -> LeasedSecret:
        """Return a lease of one of the secrets, to be taken."""
        return client.lease(
            secret,
            task=self.task,
            ttl=self.ttl,
            encrypted=self.encrypted,
            break_glass=self.break_glass,
            on_warning=self.warn,
        )

    def warn(self, text: str) -> None:
        """Say what went wrong while the program runs, out of the way of its output."""
        note(to_json({"warning": text}) if self.as_json else f"broker: {text}")


@dataclass(slots=True)
class _Run:
    """One run of a program."""

    who: Agent
    asked: _Asked
    program: Sequence[str]
    signals: HeldSignals
    _child: Child | None = None
    _main: asyncio.Task[int] | None = None
    _ended_by: int | None = None
    _leases: list[LeasedSecret] = field(default_factory=list)

    def run(self) -> int:
        """Return the program's exit code, or that of the signal that came before it was started."""
        try:
            return asyncio.run(self._work())
        except asyncio.CancelledError:
            if self._ended_by is None:
                raise
            return SIGNALLED + self._ended_by

    async def _work(self) -> int:
        self._main = asyncio.current_task()
        wants_files = any(each.as_file for each in self.asked.wanted)
        with self.signals.heard(self._heard):
            async with AsyncExitStack() as stack:
                files = stack.enter_context(MemoryFiles()) if wants_files else None
                client = await stack.enter_async_context(self.who.client(PATIENCE_SECONDS))
                environment = await self._leased(client, stack, files)
                self._child = Child(self.program, {**os.environ, **environment})
                code = await self._child.ended()
                await asyncio.gather(*(lease.end() for lease in self._leases))
                return code

    async def _leased(self, client: Client, stack: AsyncExitStack, files: MemoryFiles | None) -> dict[str, str]:
        """Take the leases and return the variables that hold the secrets, or the paths of their files."""
        taken: dict[str, LeasedSecret] = {}
        for secret in self.asked.secrets():
            taken[secret] = await stack.enter_async_context(self.asked.of(client, secret))
            self._leases.append(taken[secret])
        return merged(_variables(each, taken[each.secret], files) for each in self.asked.wanted)

    def _heard(self, received: Received) -> None:
        """Pass a signal on to the program; before there is one, end everything, and give back what was taken."""
        if self._child is not None:
            self._child.pass_on(received)
        elif received.number in ENDING and self._ended_by is None and self._main is not None:
            self._ended_by = received.number
            self._main.cancel()


def _variables(into: Delivery, leased: LeasedSecret, files: MemoryFiles | None) -> dict[str, str]:
    data = dict(leased.data)
    if files is None or not into.as_file:
        return variables(into.variable, data)
    return {into.variable: str(files.write(f"{into.secret}.json", to_json(data).encode() + b"\n"))}
