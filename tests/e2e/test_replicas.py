"""Two real brokers on one real PostgreSQL: what one revokes the other does not accept, whatever is lost or killed."""

from __future__ import annotations

import json
import shutil
import signal
import struct
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest

from broker.client.dpop import DpopKey
from tests.chaos.member import SKEW
from tests.support.client_load import read_key
from tests.support.postgres import Postgres
from tests.support.postgres_relay import PostgresRelay
from tests.support.running_broker import TICKETS, RunningBroker, free_port

PATIENCE: Final = 90.0
SCOPES: Final = ("operator:read", "revocations:read", "revocations:write")


@dataclass
class Replicas:
    """Two brokers of one issuer, the second behind a way that can be cut, and what an operator and an agent have."""

    one: RunningBroker
    other: RunningBroker
    way: PostgresRelay
    alpha: Path
    operator: str = ""

    def token(self) -> str:
        """Return a fresh token of alpha from the first replica."""
        return self._token(("alpha", self.alpha), TICKETS, "tickets:read")

    def sign_in(self) -> None:
        """Get the operator's token."""
        self.operator = self.operating()

    def operating(self, *options: str) -> str:
        """Return a fresh token of the operator."""
        who = ("operator", self.one.home / "operator.pem")
        return self._token(who, f"{self.one.issuer}/v1", *SCOPES, options=options)

    def _token(self, who: tuple[str, Path], audience: str, *scopes: str, options: Sequence[str] = ()) -> str:
        wanted = (word for scope in scopes for word in ("--scope", scope))
        key = ("--agent", who[0], "--key", str(who[1]))
        return str(self.one.ask("token", *key, "--audience", audience, *wanted, *options)["access_token"])

    def said(self, at: RunningBroker, token: str) -> Any:  # noqa: ANN401 - JSON
        """Return what introspection says of a token: whether it is active, or the code of the refusal."""
        body = urllib.parse.urlencode({"token": token}).encode()
        answer = self.call(at, "oauth2/introspect", body)
        return answer.get("active", answer.get("code"))

    def call(
        self,
        at: RunningBroker,
        path: str,
        body: bytes | None = None,
        kind: str = "x-www-form-urlencoded",
        signed: Mapping[str, str] | None = None,
    ) -> Any:  # noqa: ANN401 - JSON
        """Call a replica as the operator, or as ``signed`` says; an error's body is an answer, too."""
        headers = {"Content-Type": f"application/{kind}", "Idempotency-Key": uuid.uuid4().hex}
        headers |= signed or {"Authorization": f"Bearer {self.operator}"}
        request = urllib.request.Request(f"{at.issuer}/{path}", body, headers)  # noqa: S310 - http on loopback
        try:
            with urllib.request.urlopen(request, timeout=PATIENCE) as reply:  # noqa: S310 - as above
                return json.loads(reply.read())
        except urllib.error.HTTPError as error:
            return json.loads(error.read())

    def revoke(self, at: RunningBroker, agent: str, wait: int = 0, signed: Mapping[str, str] | None = None) -> Any:  # noqa: ANN401 - JSON
        """Revoke all that an agent has."""
        order = {"selector": {"agent": agent}, "reason": "test", "wait": wait}
        return self.call(at, "v1/revocations", json.dumps(order).encode(), "json", signed)


def until(holds: Callable[[], object]) -> None:
    """Wait until something holds."""
    end = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.fixture
def replicas(tmp_path: Path, postgres: Postgres) -> Iterator[Replicas]:
    """Two that serve; whatever runs at the end is killed."""
    url = postgres.ledger(tmp_path / "ledger").url
    one = RunningBroker(tmp_path / "one")
    one.folder.mkdir()
    one.command("init", str(one.home), "--ledger-url", url)
    one.config.write_text(one.config.read_text().replace("8640", str(one.port)))
    (one.home / "policy.yaml").write_text(one.policy)
    other = RunningBroker(tmp_path / "other", port=free_port())
    shutil.copytree(one.home, other.home)
    with PostgresRelay(tmp_path / "way", postgres) as way:
        text = other.config.read_text().replace(f"port = {one.port}", f"port = {other.port}")
        other.config.write_text(text.replace(postgres.host, str(way.folder)))
        try:
            one.start()
            other.start()
            found = Replicas(one, other, way, one.agent("alpha"))
            found.sign_in()
            yield found
        finally:
            one.kill()
            other.kill()


def test_what_one_revokes_the_other_does_not_accept(replicas: Replicas) -> None:
    """Once a rule is said to be applied, no replica accepts what it hits; a new token of either counts everywhere."""
    token = replicas.token()
    assert replicas.said(replicas.other, token) is True
    propagation = replicas.revoke(replicas.one, "alpha", wait=60)["propagation"]
    assert (propagation["applied"], propagation["replicas"]) == (True, 2)
    assert replicas.said(replicas.other, token) is False
    again = replicas.token()
    assert [replicas.said(each, again) for each in (replicas.one, replicas.other)] == [True, True]
    replicas.revoke(replicas.other, "alpha")
    until(lambda: replicas.said(replicas.one, again) is False)


def test_a_replica_that_is_cut_off_says_nothing(replicas: Replicas) -> None:
    """Neither yes nor no, until it can look again; the rule counts as applied, since it refuses by itself."""
    token = replicas.token()
    replicas.way.cut_off()
    until(lambda: replicas.said(replicas.other, token) == "rules_stale")
    assert replicas.revoke(replicas.one, "alpha", wait=60)["propagation"]["applied"]
    assert replicas.said(replicas.other, token) == "rules_stale"
    assert replicas.said(replicas.one, token) is False
    replicas.way.silent = False
    until(lambda: replicas.said(replicas.other, token) is False)


def test_a_replica_that_was_stopped_does_not_judge_by_what_it_knew(replicas: Replicas) -> None:
    """What was asked meanwhile is answered when it goes on, by the rules that are in force then."""
    token = replicas.token()
    assert replicas.said(replicas.other, token) is True
    assert replicas.other.process is not None
    with ThreadPoolExecutor() as askers:
        replicas.other.process.send_signal(signal.SIGSTOP)
        try:
            answers = [askers.submit(replicas.said, replicas.other, token) for _ in range(8)]
            assert replicas.revoke(replicas.one, "alpha", wait=60)["propagation"]["applied"]
        finally:
            replicas.other.process.send_signal(signal.SIGCONT)
        assert {answer.result() for answer in answers} <= {False, "rules_stale"}
    until(lambda: replicas.said(replicas.other, token) is False)


def test_a_replica_whose_clock_is_wrong_is_not_ready(
    replicas: Replicas, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until it is right again; nobody sends it anything meanwhile who asks first. The other one is as before."""
    clock = tmp_path / "clock"
    clock.write_bytes(struct.pack("d", 0.0))
    replicas.other.kill()
    with monkeypatch.context() as environment:
        environment.setenv("PYTHONPATH", str(SKEW))
        environment.setenv("CHAOS_SKEW", str(clock))
        replicas.other.start()
    with clock.open("r+b", buffering=0) as file:
        for ahead in (-600.0, 0.0, 600.0, 0.0):
            file.seek(0)
            file.write(struct.pack("d", ahead))
            expected = "ok" if ahead == 0 else "failing"
            until(lambda expected=expected: replicas.call(replicas.other, "readyz")["checks"]["ledger"] == expected)  # type: ignore[misc]
    assert replicas.call(replicas.one, "readyz")["status"] == "ok"


def test_a_killed_replica_and_a_crashed_server_lose_nothing(replicas: Replicas, postgres: Postgres) -> None:
    """The other goes on; what was revoked before stays revoked, and the ledger verifies."""
    token = replicas.token()
    replicas.revoke(replicas.one, "alpha")
    replicas.other.kill()
    assert replicas.said(replicas.one, token) is False
    postgres.crash()
    until(lambda: replicas.said(replicas.one, token) is False)
    fresh = replicas.token()
    assert replicas.said(replicas.one, fresh) is True
    replicas.other.start()
    assert [replicas.said(replicas.other, each) for each in (token, fresh)] == [False, True]
    assert replicas.one.ask("ledger", "verify")["entries"] > 0


def test_a_proof_that_one_replica_took_no_other_one_takes(replicas: Replicas) -> None:
    """Nor does one that cannot ask; but there an operator can still revoke (law 1)."""
    token = replicas.operating("--dpop")
    key = DpopKey(read_key(replicas.one.home / "operator.pem"))

    def signed(method: str) -> dict[str, str]:
        url = f"{replicas.one.issuer}/v1/revocations"
        # In a second after the one in which the replicas began: an older proof could have been used before that.
        proof = key.proof(method, url, now=time.time() + 2, access_token=token)
        return {"Authorization": f"DPoP {token}", "DPoP": proof}

    first, second = signed("GET"), signed("GET")
    asked = ((replicas.one, first), (replicas.other, first), (replicas.other, second), (replicas.one, second))
    said = [replicas.call(at, "v1/revocations", signed=headers).get("code") for at, headers in asked]
    assert said == [None, "proof_replayed", None, "proof_replayed"]
    replicas.way.cut_off()
    revoking = signed("POST")
    assert replicas.revoke(replicas.other, "alpha", signed=revoking)["durable"] is False
    assert replicas.revoke(replicas.other, "alpha", signed=revoking)["code"] == "proof_replayed"
