"""How a command ends: exit codes, which are stable, and the one error line that goes with each failure."""

from __future__ import annotations

from enum import IntEnum
from typing import Final

from broker.core.errors import BrokerError, Code, Malformed, Unavailable

_SERVER_PACKAGES: Final = frozenset(
    {"alembic", "prometheus_client", "rich", "sqlalchemy", "structlog", "typer", "ulid", "uvloop", "yaml"}
)


class ExitCode(IntEnum):
    """What a command's exit status means. Documented in ``docs/reference/cli.md``; never changed or reused."""

    OK = 0
    """Done, and the answer is positive."""
    REFUSED = 1
    """The broker refused what was asked, or the answer is negative (a policy with errors, a case that fails)."""
    USAGE = 2
    """Arguments, settings or a file named on the command line cannot be used. Nothing was done."""
    UNAVAILABLE = 3
    """The broker or its ledger cannot be reached or cannot do it now. Trying again may help."""
    INTEGRITY = 4
    """The ledger is not what it was: entries were changed, removed or added behind the broker's back."""
    NOT_AUTHORISED = 5
    """The caller could not sign in, or its role does not allow this."""
    NOT_DURABLE = 6
    """The revocation is in force, but could not be written to the ledger yet."""
    PENDING = 7
    """A person has to decide first, and did not while the command waited. Going on with the same request may help."""
    NOT_CONFIRMED = 8
    """The revocation is in force, but of some leases that it ended no backend has said so: stuck, or still retrying."""
    NOT_APPLIED = 9
    """The revocation is in force, but somebody who has not applied it yet may still accept what it hits."""
    INTERNAL = 70
    """A defect of this program."""
    INTERRUPTED = 130
    """Stopped by Ctrl-C (128 + SIGINT)."""
    PIPE_CLOSED = 141
    """Whoever read the output went away (128 + SIGPIPE)."""


class Failure(Exception):
    """A command cannot go on. ``code`` is a stable word, ``text`` one line saying what is wrong and what to do."""

    def __init__(
        self, exit_code: ExitCode, code: str, text: str, *, refusal: str | None = None, auth_req_id: str | None = None
    ) -> None:
        """``refusal`` is the ledger's reference of the refusal, ``auth_req_id`` that of what is waited for, if any."""
        super().__init__(code)
        self.exit_code = exit_code
        self.code = code
        self.text = text
        self.refusal = refusal
        self.auth_req_id = auth_req_id


def unusable(text: str, code: str = "usage") -> Failure:
    """Return the failure of a command that was called with something it cannot use."""
    return Failure(ExitCode.USAGE, code, text)


def failure_of(error: BrokerError) -> Failure:
    """Return the failure that an error of the broker's own code is to whoever typed the command."""
    match error:
        case Unavailable(code=Code.LEDGER_CORRUPT):
            exit_code = ExitCode.INTEGRITY
        case Unavailable():
            exit_code = ExitCode.UNAVAILABLE
        case Malformed() | BrokerError(code=Code.POLICY_INVALID):
            exit_code = ExitCode.USAGE
        case _:
            exit_code = ExitCode.REFUSED
    return Failure(exit_code, error.code.value, error.public)


def package_missing(error: ModuleNotFoundError) -> Failure | None:
    """Return the failure to tell if a package of the ``server`` extra is not installed, else None."""
    name = (error.name or "").partition(".")[0]
    if name not in _SERVER_PACKAGES:
        return None
    text = f"the package {name} is missing; it comes with: pip install 'credential-broker[server]'"
    return Failure(ExitCode.USAGE, "server_not_installed", text)
