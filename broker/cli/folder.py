"""A new broker's folder: settings, policy, master key, ledger with its first keys, and the first operator's key."""

from __future__ import annotations

import asyncio
import os
import secrets
import stat
from contextlib import suppress
from importlib.resources import files
from pathlib import Path
from typing import Final

import msgspec

from broker.cli.keyfile import create_private_key, write_new
from broker.cli.outcome import unusable
from broker.clock import SystemClock
from broker.config import Config, ConfigError, load_config
from broker.core.change import Change, PutKey
from broker.core.entry import Kind, entry
from broker.core.jwk import public_jwk
from broker.core.policy import LONGEST_TTL
from broker.core.tally import Tally
from broker.ids import RandomIds
from broker.ledger.store import SqlLedger
from broker.ports import Caller, Revocations
from broker.registration import Registration
from broker.signing.keyring import KeyRing
from broker.signing.master_key import KeyFile, MasterKeyError, create_master_key, load_master_key
from broker.signing.sealing import Sealer

CONFIG: Final = "broker.toml"
POLICY: Final = "policy.yaml"
MASTER_KEY: Final = "master.key"
LEDGER: Final = "ledger.db"
OPERATOR_KEY: Final = "operator.pem"
FILES: Final = (CONFIG, POLICY, MASTER_KEY, LEDGER, OPERATOR_KEY)

_IN_FILE: Final = f'path = "{LEDGER}"'
_BY: Final = "init"
_SIDE_FILES: Final = tuple(LEDGER + ending for ending in ("-wal", "-shm", "-journal", ".lock"))


def make_folder(folder: Path, ledger_url: str | None = None) -> Config:
    """Make everything that a broker needs in ``folder``, all of it or nothing, and return its settings.

    With ``ledger_url`` the ledger is made in that database instead; what was made there stays there.

    Raises ``Failure`` if any of the files is there already (then nothing is touched), if others may write to the
    folder, or if something cannot be made (then what was made is removed again).
    """
    there = [name for name in (*FILES, *_SIDE_FILES) if os.path.lexists(folder / name)]
    if there:
        text = f"{folder} holds {', '.join(there)} already; nothing was touched. Choose another folder"
        raise unusable(text, "already_initialised")
    is_new = _enter(folder)
    try:
        return asyncio.run(_fill(folder, ledger_url))
    except BaseException as error:
        _clear(folder, remove=is_new)
        if isinstance(error, ConfigError):
            raise unusable(str(error), "config_invalid") from error
        if isinstance(error, MasterKeyError):
            raise unusable(str(error), "master_key_unusable") from error
        raise


async def _fill(folder: Path, ledger_url: str | None) -> Config:
    for name in (CONFIG, POLICY):
        text = (files("broker") / "templates" / name).read_text()
        write_new(folder / name, (text if ledger_url is None else text.replace(_IN_FILE, _url(ledger_url))).encode())
    # Without the environment: what is made belongs to the file, not to the shell that made it.
    config = load_config(folder / CONFIG, {})
    create_master_key(folder / MASTER_KEY)
    operator = create_private_key(folder / OPERATOR_KEY)
    clock, ids = SystemClock(), RandomIds()
    SqlLedger.create(config.ledger, clock.now())
    ledger = await SqlLedger.open(config.ledger, Revocations(), clock=clock)
    try:
        caller = Caller(address="local", request_id=ids.new("req"), trace_id=secrets.token_hex(16))
        ring = KeyRing((), Sealer(load_master_key(KeyFile(folder / MASTER_KEY))), longest_token=LONGEST_TTL)
        rows = ring.missing(clock.now())
        made = [{"kid": row.kid, "alg": row.alg, "use": row.use, "revoked": row.revoked} for row in rows]
        record = entry(Kind.KEYS_ROTATED, clock.now(), by=_BY, keys=made, **caller.members())
        await ledger.commit(Change(record, (), tuple(PutKey(row) for row in rows)))
        registration = Registration(ledger=ledger, records=ledger, clock=clock, ids=ids, strangers=Tally())
        public = public_jwk(operator.public_key())
        await registration.register(config.operator.agent, public, by=_BY, caller=caller)
    finally:
        await ledger.close()
    return config


def _url(ledger_url: str) -> str:
    """Return the setting of a URL; a JSON text is one of TOML, too."""
    return f"url = {msgspec.json.encode(ledger_url).decode()}"


def _enter(folder: Path) -> bool:
    """Make the folder if it is not there; whether it is new. An empty one that exists is closed to others as well."""
    try:
        folder.mkdir(mode=0o700, parents=True)
    except FileExistsError:
        _refuse_shared(folder)
        return False
    except OSError as error:
        raise unusable(f"{folder}: cannot be made ({error.strerror})", "folder_unusable") from error
    return True


def _refuse_shared(folder: Path) -> None:
    try:
        if not any(folder.iterdir()):
            folder.chmod(0o700)
        status = folder.stat()
    except OSError as error:
        raise unusable(f"{folder}: cannot be used ({error.strerror})", "folder_unusable") from error
    if os.name == "posix" and status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        text = f"{folder}: others may write to it, and could replace keys and ledger; chmod 700 it, or choose another"
        raise unusable(text, "folder_exposed")


def _clear(folder: Path, *, remove: bool) -> None:
    # None of these was there when we began.
    for name in (*FILES, *_SIDE_FILES):
        (folder / name).unlink(missing_ok=True)
    if remove:
        with suppress(OSError):
            folder.rmdir()
