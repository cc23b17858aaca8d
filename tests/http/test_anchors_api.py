"""``/v1/ledger/anchors``, and what a broker with anchors does beside its requests."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from broker.ledger.verify import verify_file
from broker.signing.checkpoint import open_note
from broker.signing.cosignature import parse_witness_key, verified_cosignatures
from tests.support.anchors import log_vkey
from tests.support.broker_app import BrokerApp, Template, running_app, with_settings
from tests.support.witness import Witness

PATH = "/v1/ledger/anchors"


def file_anchor(path: Path, **more: object) -> str:
    """Return the settings of a file anchor."""
    lines = {"kind": "file", "path": str(path), "every_seconds": 1, **more}
    return "\n[anchors.offsite]\n" + "".join(f"{name} = {json.dumps(value)}\n" for name, value in lines.items())


def witness_anchor(witness: Witness) -> str:
    """Return the settings of a witness."""
    return (
        f'\n[anchors.w1]\nkind = "witness"\nurl = "{witness.url}"\nvkey = "{witness.vkey}"\n'
        "allow_http = true\nallow_private = true\nevery_seconds = 1\n"
    )


@asynccontextmanager
async def anchored(template: Template, folder: Path, settings: str) -> AsyncIterator[BrokerApp]:
    """Run a broker with these anchors."""
    async with running_app(with_settings(template, folder / "template", settings), folder / "broker") as app:
        yield app


async def eventually(holds: Callable[[], Awaitable[bool]]) -> None:
    """Wait until something holds."""
    for _ in range(600):
        if await holds():
            return
        await asyncio.sleep(0.05)
    raise AssertionError("it never came to hold")


async def anchors(app: BrokerApp, query: str = "") -> list[dict[str, Any]]:
    """Return what the API says of the anchors."""
    reply = await app.call("GET", PATH + query, token=await app.operator("ledger:read"))
    assert reply.status == 200, reply.body
    found: list[dict[str, Any]] = reply.json["anchors"]
    return found


async def placed(app: BrokerApp, *names: str) -> None:
    """Wait until these anchors have taken a checkpoint."""

    async def all_have() -> bool:
        states = {state.name: state for state in app.services.anchoring.states()}
        return all(states[name].placement is not None for name in names)

    await eventually(all_have)


async def test_a_broker_without_anchors(app: BrokerApp) -> None:
    """There is nothing to tell, and nothing is cosigned."""
    assert await anchors(app) == await anchors(app, "?check=true") == []
    reply = await app.call("GET", "/v1/ledger/checkpoint?cosigned=true", token=await app.operator())
    assert (reply.status, reply.json["code"]) == (404, "not_found")


async def test_each_anchor_is_told_of_and_asked(template: Template, tmp_path: Path) -> None:
    """What it was given, with the receipt; with ``check`` what it holds, which is a checkpoint of this very ledger."""
    file = tmp_path / "offsite.jsonl"
    async with Witness("") as witness, anchored(template, tmp_path, file_anchor(file) + witness_anchor(witness)) as app:
        witness.log_vkey = vkey = await log_vkey(app.services.records, app.issuer)
        await app.token("alpha")
        await placed(app, "offsite", "w1")
        offsite, w1 = await anchors(app)
        assert (offsite["name"], offsite["kind"], w1["name"], w1["kind"]) == ("offsite", "file", "w1", "witness")
        assert offsite["receipt"].startswith(str(file))
        assert (offsite["alarm"], offsite["failure"], w1["alarm"]) == (False, None, False)
        checked = {anchor["name"]: anchor["check"] for anchor in await anchors(app, "?check=true")}
        assert checked["w1"] == {"verdict": "silent"}
        assert checked["offsite"]["verdict"] == "agrees"
        held = open_note(checked["offsite"]["checkpoint"], vkey)
        assert (held.size, held.root.hex()) == (checked["offsite"]["size"], checked["offsite"]["root"])
        reply = await app.call("GET", "/v1/ledger/checkpoint?cosigned=true", token=await app.operator())
        note = reply.body.decode()
        assert open_note(note, vkey).size in witness.cosigned
        own, _, lines = note.partition("— witness")
        assert verified_cosignatures(own, f"— witness{lines}", parse_witness_key(witness.vkey)).lines


@pytest.mark.parametrize("query", ["?check=yes", "?check=", "?chek=true", "?check=true&check=true"])
async def test_what_is_asked_wrongly(app: BrokerApp, query: str) -> None:
    """Nothing is guessed."""
    reply = await app.call("GET", PATH + query, token=await app.operator())
    assert reply.status == 400
    reply = await app.call("GET", "/v1/ledger/checkpoint?cosigned=maybe", token=await app.operator())
    assert reply.status == 400


async def test_it_needs_a_scope(app: BrokerApp) -> None:
    """Where checkpoints are kept is for those who may read the ledger."""
    assert (await app.call("GET", PATH)).status == 401
    assert (await app.call("GET", PATH, token=await app.operator("operator:read"))).status == 403


async def test_a_contradiction_is_told_everywhere(template: Template, tmp_path: Path) -> None:
    """A file that holds another ledger's checkpoint: log, API, metric and ledger say so; issuing goes on."""
    file = tmp_path / "offsite.jsonl"
    file.write_text(json.dumps({"note": "somebody/else\n1\nAAAA\n\n— x AAAA\n", "placed_at": 1}) + "\n")
    async with anchored(template, tmp_path, file_anchor(file)) as app:

        async def told() -> bool:
            await app.services.anchoring.watch()
            return bool(await app.entries("anchor.failed"))

        await eventually(told)
        (state,) = await anchors(app)
        assert (state["alarm"], state["failure"]["code"], state["size"]) == (True, "anchor_inconsistent", None)
        assert [line["anchor"] for line in app.events.of("anchor.inconsistent")] == ["offsite"]
        assert 'broker_anchor_alarm{anchor="offsite"} 1.0' in app.services.metrics.text().decode()
        await app.token("alpha")
        (checked,) = await anchors(app, "?check=true")
        assert checked["check"]["code"] == "anchor_inconsistent"
    assert len(file.read_text().splitlines()) == 1


async def test_anchors_that_are_down_change_nothing(template: Template, tmp_path: Path) -> None:
    """Neither starting, nor issuing, nor stopping; the ledger is sound, and later everything is placed."""
    file = tmp_path / "nowhere" / "offsite.jsonl"
    async with Witness("") as witness:
        settings = file_anchor(file) + witness_anchor(witness)
        witness.url = ""
    async with anchored(template, tmp_path, settings) as app:
        await app.token("alpha")

        async def failing() -> bool:
            return all(state.failure is not None for state in app.services.anchoring.states())

        await eventually(failing)
        assert {state["failure"]["code"] for state in await anchors(app)} == {"anchor_unavailable"}
        await app.token("alpha")
        ledger = app.file
    assert verify_file(ledger).problems == ()
    file.parent.mkdir()
    later = Template(ledger.parent, template.keys)
    async with running_app(later, tmp_path / "later") as app:
        await placed(app, "offsite")
