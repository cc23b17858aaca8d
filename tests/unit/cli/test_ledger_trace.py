"""``broker ledger trace``, of a running broker and of a file."""

from __future__ import annotations

from tests.support.broker_thread import BrokerThread
from tests.support.shell import Shell
from tests.support.team import claims_of


def test_the_same_story_online_and_offline(shell: Shell, broker: BrokerThread) -> None:
    """A broker and the file it writes tell the same of a token and of what ended it."""
    token = claims_of(broker.run(broker.app.token("alpha")))["jti"]
    file = broker.folder / "ledger.db"
    done = shell("revoke", "--token", token, "--reason", "a drill", "--yes")
    assert done.code == 0, done.err
    online, offline = shell("ledger", "trace", token), shell("ledger", "trace", token, "--file", file)
    assert (online.code, online.out) == (0, offline.out)
    first, second = online.out.splitlines()
    assert f"token {token} to alpha" in first
    assert ", ended by #" in first
    assert '"a drill"' in second
    answers = [shell("ledger", "trace", token, "--json", *where).json for where in ((), ("--file", file))]
    assert answers[0] == answers[1]


def test_nothing_is_known(shell: Shell, broker: BrokerThread) -> None:
    """An id that the ledger does not have, and text that is no id."""
    file = broker.folder / "ledger.db"
    for where in ((), ("--file", file)):
        done = shell("ledger", "trace", "tok_0", *where)
        assert (done.code, done.err.startswith("broker: not_found: ")) == (1, True)
        assert shell("ledger", "trace", "../keys", *where).code == 2
