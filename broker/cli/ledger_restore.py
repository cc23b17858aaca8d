"""``broker ledger accept-restore``: going on with an older ledger, when everything issued before has been given up."""

from __future__ import annotations

import asyncio
import getpass
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from broker.cli.options import ConfigFile, Json, settings
from broker.cli.outcome import ExitCode, Failure, unusable
from broker.cli.output import Facts, is_interactive, note, show
from broker.core.tree_head import KnownHead

if TYPE_CHECKING:
    from broker.config import Config
    from broker.ledger.keeping.restoring import RestoredLedger, Situation
    from broker.signing.keyring import KeyRing


def command(
    *,
    reason: Annotated[str, typer.Option(help="Why an older ledger is gone on with; it is recorded.")],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """Go on with a restored ledger: end all that was ever issued, hold all leases. The broker must be stopped."""
    from broker.clock import SystemClock  # noqa: PLC0415 - loads the ledger, which few commands need
    from broker.core.restoring import accepting  # noqa: PLC0415
    from broker.core.revoking import check_text  # noqa: PLC0415
    from broker.ids import RandomIds  # noqa: PLC0415
    from broker.ledger.keeping.restoring import taken  # noqa: PLC0415
    from broker.signing.ledger_identity import own_note_opener  # noqa: PLC0415

    check_text("reason", reason)
    loaded, clock = settings(config), SystemClock()
    with taken(loaded.ledger, clock) as ledger:
        ring = _ring(loaded, ledger)
        known = _known(loaded, ring)
        note("Going through all entries first.")
        situation = ledger.examine(own_note_opener(ring), known)
        _confirm(situation, yes=yes)
        change = accepting(
            situation.head,
            situation.epoch,
            situation.lost,
            rule_id=RandomIds().new("rule"),
            now=clock.now(),
            by=f"local/{getpass.getuser()}",
            reason=reason,
        )
        receipt = ledger.accept(change)
    answer = {**_answer(situation), "accepted": True, "entry": receipt.seq, "rule": receipt.epoch}
    show(
        answer,
        Facts("The ledger is gone on with", [("entry", receipt.seq), ("rule", receipt.epoch)]),
        "Every token that was issued before is dead. Start the broker:  broker serve",
        "Leases of before are held. Look at them, then let them be revoked:  broker leases confirm --reason …",
        as_json=as_json,
    )


def _ring(config: Config, ledger: RestoredLedger) -> KeyRing:
    """Return the broker's keys, opened: whoever has the master key may do this, and the ledger is this broker's."""
    from broker.core.policy import LONGEST_TTL  # noqa: PLC0415 - as above
    from broker.signing.keyring import KeyRing  # noqa: PLC0415
    from broker.signing.master_key import MasterKeyError, load_master_key  # noqa: PLC0415
    from broker.signing.sealing import Sealer, SealingError  # noqa: PLC0415
    from broker.wiring import master_key_source  # noqa: PLC0415

    try:
        sealer = Sealer(load_master_key(master_key_source(config.master_key)))
        return KeyRing(ledger.keys(), sealer, longest_token=LONGEST_TTL)
    except MasterKeyError as error:
        raise unusable(str(error), "master_key_unusable") from error
    except SealingError as error:
        text = f"this ledger is not of the broker with this master key ({error})"
        raise unusable(text, "master_key_unusable") from error


def _known(config: Config, ring: KeyRing) -> Mapping[str, KnownHead]:
    """Ask everybody outside who keeps checkpoints; say who does not answer."""
    from broker.wiring.outside import ask_outside  # noqa: PLC0415 - as above

    known: dict[str, KnownHead] = {}
    for says, answer in asyncio.run(ask_outside(config, ring)).items():
        if isinstance(answer, KnownHead):
            known[says] = answer
        elif answer is not None:
            note(f"{says} cannot be had: {answer.public}")
    return known


def _confirm(situation: Situation, *, yes: bool) -> None:
    """Show what was found, and ask. Raises ``Failure``."""
    for line in _found(situation):
        note(line)
    if yes:
        return
    if not is_interactive():
        raise unusable("nobody can be asked here: add --yes, if you know what is given up", "not_confirmed")
    if not typer.confirm("End every token that was ever issued, and go on with this ledger?", err=True):
        raise Failure(ExitCode.REFUSED, "not_confirmed", "nothing was changed")


def _found(situation: Situation) -> list[str]:
    lines = [f"This ledger is sound in itself, and has {situation.head.size:,} entries."]
    if not situation.lost:
        return [*lines, "Nobody who was asked knows of a newer one. What is missing, if anything, is not known."]
    furthest = max(head.size for head in situation.lost.values()) - situation.head.size
    missing = f"At least {furthest:,} entries are missing." if furthest > 0 else "It is not the one that it was."
    return [*lines, *(f"  {told}" for told in situation.told), missing]


def _answer(situation: Situation) -> dict[str, Any]:
    return {
        "entries": situation.head.size,
        "lost": {says: head.size for says, head in situation.lost.items()},
        "problems": list(situation.told),
    }
