"""The ``broker`` command: its groups of commands, and how each failure becomes one line and an exit code."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Annotated, Final

import typer
import typer.main
from typer.exceptions import Abort, TyperException

import broker
from broker.cli import (
    agent,
    approvals,
    blocks,
    database,
    demo,
    init,
    keys,
    lease,
    leases,
    ledger,
    policy,
    present,
    report,
    revoke,
    run_with_leases,
    secret,
    serve,
    task,
    token,
)
from broker.cli.outcome import ExitCode, Failure, failure_of, package_missing
from broker.cli.output import show, show_failure
from broker.core.errors import BrokerError
from broker.logs import describe

_COMPLETION: Final = "_BROKER_COMPLETE"
"""Set by a shell that wants to know how a command line could go on."""

app = typer.Typer(
    name="broker",
    help="Gives AI agents credentials that are scoped, short-lived, recorded, and revocable at once.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.command("init")(init.command)
app.command("serve")(serve.command)
app.add_typer(agent.app, name="agent")
app.command("token")(token.command)
app.add_typer(task.app, name="task")
app.add_typer(lease.app, name="lease")
app.command("exec", context_settings={"allow_interspersed_args": False})(run_with_leases.command)
app.add_typer(approvals.app, name="approvals")
app.command("revoke")(revoke.command)
app.add_typer(blocks.app, name="blocks")
app.add_typer(leases.app, name="leases")
app.add_typer(present.verifiers, name="verifiers")
app.add_typer(present.replicas, name="replicas")
app.add_typer(policy.app, name="policy")
app.add_typer(ledger.app, name="ledger")
app.add_typer(database.app, name="db")
app.add_typer(keys.app, name="keys")
app.add_typer(secret.app, name="secret")
app.command("report")(report.command)
app.command("demo")(demo.command)


def _show_version(wanted: bool) -> None:
    if wanted:
        show({"version": broker.__version__}, broker.__version__, as_json="--json" in sys.argv)
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_show_version, help="Print the version.")
    ] = False,
) -> None:
    """Options before any command."""


def run(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code. Whatever happens, there is no traceback."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    try:
        return _run(arguments)
    except BrokenPipeError:
        # Nobody reads any more; the interpreter must not find that out again when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ExitCode.PIPE_CLOSED
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 - the last net: a traceback could hold anything
        failure = told(error)
        # Looked for here, since arguments that cannot be parsed are told as JSON as well.
        show_failure(failure, as_json="--json" in _own(arguments))
        return failure.exit_code


def _run(arguments: list[str]) -> int:
    command = typer.main.get_command(app)
    if _COMPLETION in os.environ:
        command.main(args=arguments, prog_name="broker")  # answers the shell and ends the process
    try:
        with command.make_context("broker", arguments) as context:
            command.invoke(context)
    except typer.Exit as done:
        return done.exit_code
    except SystemExit:
        return ExitCode.PIPE_CLOSED  # what Rich makes of a closed pipe, when it prints help
    finally:
        sys.stdout.flush()
    return ExitCode.OK


def _own(arguments: Sequence[str]) -> Sequence[str]:
    """Return the arguments that are for us: what follows ``--`` is another program's."""
    return arguments[: arguments.index("--")] if "--" in arguments else arguments


def told(error: BaseException) -> Failure:
    """Return how an error is told to whoever typed the command."""
    match error:
        case Failure():
            return error
        case BrokerError():
            return failure_of(error)
        case ModuleNotFoundError() if (failure := package_missing(error)) is not None:
            return failure
        case TyperException():
            # Without a message, the help was printed instead of it.
            text = error.format_message() or "Name a command."
            return Failure(ExitCode.USAGE, "usage", f"{text} Help: broker COMMAND --help")
        case Abort() | KeyboardInterrupt():
            return Failure(ExitCode.INTERRUPTED, "interrupted", "stopped before it was done")
        case _:
            places = " < ".join(describe(error))
            return Failure(ExitCode.INTERNAL, "internal", f"a defect of the broker command: {places}")
