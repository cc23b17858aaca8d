"""``broker ledger erase``, as an operator types it."""

from __future__ import annotations

import json
from pathlib import Path

from tests.support.broker_app import TICKETS
from tests.support.broker_thread import BrokerThread
from tests.support.shell import Shell

ERASE = ("ledger", "erase", "--reason", "asked for on paper")


def test_counted_then_erased(shell: Shell, broker: BrokerThread, tmp_path: Path) -> None:
    """The preview counts and changes nothing; after the erasure nobody is shown what is gone, and all still fits."""
    broker.run(broker.app.ask(broker.app.form("alpha", audience=TICKETS, scope="no:such")))
    seq = shell("ledger", "query", "--agent", "alpha", "--json").json["entries"][-1]["seq"]
    assert "127.0.0.1" in shell("ledger", "show", seq).out
    preview = shell(*ERASE, "--agent", "alpha", "--preview")
    assert (preview.code, "2 entries would lose" in preview.out) == (0, True)
    assert "127.0.0.1" in shell("ledger", "show", seq).out
    done = shell(*ERASE, "--agent", "alpha", "--json").json
    assert (done["entries"], done["in_use"], done["forgotten"], len(done["erasures"])) == (2, 0, True, 1)
    shown = shell("ledger", "show", seq)
    assert "127.0.0.1" not in shown.out
    assert "personal_erased" in shown.out
    assert shell("ledger", "verify", "--file", broker.folder / "ledger.db").code == 0
    export = tmp_path / "export.jsonl"
    shell("ledger", "export", "--output", export)
    lines = [json.loads(line) for line in export.read_text().splitlines()]
    assert lines[seq]["personal"] is None
    (erasure,) = [line for line in lines if line["entry"]["kind"] == "personal.erased"]
    assert set(erasure["personal"]["members"]) == {"address", "reason"}


def test_what_is_in_use(shell: Shell, broker: BrokerThread) -> None:
    """A living token keeps what is personal, and the answer says so; one that is named is refused."""
    broker.run(broker.app.token("alpha"))
    done = shell(*ERASE, "--agent", "alpha")
    assert (done.code, "still in use" in done.out) == (0, True)
    ref = shell("ledger", "query", "--kind", "token.issued", "--json").json["entries"][0]["entry"]["ref"]
    refused = shell(*ERASE, "--ref", ref)
    assert (refused.code, "in use" in refused.err) == (1, True)


def test_something_must_be_named(shell: Shell, broker: BrokerThread) -> None:
    """Nothing at all is not everything."""
    assert shell(*ERASE).code in {1, 2}
