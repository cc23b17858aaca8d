"""``broker ledger query``, of a running broker and of a file."""

from __future__ import annotations

from pathlib import Path

from tests.support.broker_thread import BrokerThread
from tests.support.shell import Shell


def test_the_same_answer_online_and_offline(shell: Shell, broker: BrokerThread) -> None:
    """A broker and the file it writes say the same, entry by entry."""
    broker.run(broker.app.token("alpha"))
    file = broker.folder / "ledger.db"
    question = ("ledger", "query", "--agent", "alpha", "--kind", "token.", "--since", "1h", "--json")
    online, offline = shell(*question).json, shell(*question, "--file", file).json
    assert online == offline
    assert [entry["entry"]["agent"] for entry in online["entries"]] == ["alpha"]
    assert online["more"] is False
    assert "token.issued" in shell(*question[:-1]).out


def test_no_more_than_asked_for(shell: Shell, broker: BrokerThread) -> None:
    """A limit cuts the answer, which says that there is more."""
    for _ in range(3):
        broker.run(broker.app.token("alpha"))
    file = broker.folder / "ledger.db"
    for where in ((), ("--file", file)):
        done = shell("ledger", "query", "--agent", "alpha", "--limit", "2", "--json", *where)
        assert (len(done.json["entries"]), done.json["more"]) == (2, True)
        assert "There are more" in shell("ledger", "query", "--agent", "alpha", "--limit", "2", *where).out


def test_what_cannot_be_asked(shell: Shell, tmp_path: Path) -> None:
    """A file that is none, a kind or a time that is none."""
    file = tmp_path / "no.db"
    assert shell("ledger", "query", "--file", file).code == 3
    file.write_bytes(b"x" * 4096)
    assert shell("ledger", "query", "--file", file).code in {3, 4}
    assert shell("ledger", "query", "--file", file, "--kind", "nonsense").code == 2
    assert shell("ledger", "query", "--file", file, "--since", "tomorrow").code == 2


def test_nothing_found(shell: Shell, made: Path) -> None:
    """An empty answer says so."""
    done = shell("ledger", "query", "--file", made / "ledger.db", "--agent", "nobody")
    assert (done.code, done.out) == (0, "There are no such entries.\n")
