"""``broker lease`` and ``broker leases``: secrets for agents' scripts, and what operators see and do of all leases."""

from __future__ import annotations

import json
import shlex
import stat
import subprocess
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from broker.cli import lease_variables
from broker.cli.outcome import ExitCode, Failure
from broker.core.lease import LeaseStatus
from tests.support.broker_app import Template, make_template
from tests.support.broker_thread import BrokerThread
from tests.support.leases import BACKENDS, LEASING, POLICY, reaping, settled, state_of
from tests.support.shell import Done, Shell, write_private_key


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Template:
    """A broker with secrets to lease."""
    made = make_template(tmp_path_factory.mktemp("leases") / "broker", POLICY, LEASING)
    with (made.folder / "broker.toml").open("a") as file:
        file.write(BACKENDS)
    return made


@pytest.fixture
def reaper(broker: BrokerThread) -> Iterator[None]:
    """Have leases revoked that have ended."""
    stack = AsyncExitStack()
    broker.run(stack.enter_async_context(reaping(broker.app)))
    yield
    broker.run(stack.aclose())


class Agent:
    """The commands of an agent."""

    def __init__(self, shell: Shell, key: Path) -> None:
        self._shell = shell
        self._as = ("--agent", "alpha", "--key", key)

    def __call__(self, command: str, *arguments: object) -> Done:
        """Run ``broker lease COMMAND``."""
        return self._shell("lease", command, *self._as, *arguments)

    def take(self, *arguments: object) -> str:
        """Take a lease and return its id."""
        done = self("take", *arguments, "--json")
        assert done.code == 0, done.err
        return str(done.json["lease_id"])


@pytest.fixture
def agent(shell: Shell, broker: BrokerThread, alpha: Path) -> Agent:
    """The agent ``alpha``."""
    return Agent(shell, alpha)


# --- agents


def test_the_secret_alone_is_printed(agent: Agent) -> None:
    """One JSON object on standard output; which lease it is, on the other."""
    done = agent("take", "db")
    assert done.code == 0, done.err
    assert set(json.loads(done.out)) == {"value"}
    assert done.out.count("\n") == 1
    assert "broker lease return lease_" in done.err
    assert json.loads(done.out)["value"] not in done.err


def test_the_whole_answer(agent: Agent) -> None:
    """With ``--json``: the lease and the secret."""
    answer = agent("take", "db", "--ttl", "1m", "--json").json
    assert set(answer) == {"lease_id", "secret", "task", "expires_at", "renewable", "revocable", "data"}
    assert (answer["secret"], answer["renewable"], answer["revocable"]) == ("db", True, True)


def test_variables_for_a_shell(agent: Agent) -> None:
    """What is printed can be evaluated, and is named after the secret unless it is said otherwise."""
    for argument, name in (("db", "DB"), ("db=PGPASSWORD", "PGPASSWORD")):
        done = agent("take", argument, "--env")
        printed = subprocess.run(
            ["sh", "-c", f'{done.out}\nprintf %s "${name}"'], capture_output=True, text=True, check=True
        )
        assert len(printed.stdout) >= 32
        assert printed.stdout == shlex.split(done.out)[1].partition("=")[2]


def test_a_file_for_its_owner_alone(agent: Agent, tmp_path: Path) -> None:
    """A new one; one that is there is not touched, and nothing is taken then."""
    path = tmp_path / "secret.json"
    done = agent("take", "db", "--out", path)
    assert (done.code, done.out) == (0, "")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    value = json.loads(path.read_text())["value"]
    assert value not in done.err
    again = agent("take", "db", "--out", path)
    assert again.code == ExitCode.USAGE
    assert len(agent("list", "--json").json["leases"]) == 1


def test_a_secret_that_cannot_be_delivered_is_given_back(agent: Agent, tmp_path: Path) -> None:
    """Nobody has it, so it must not live."""
    done = agent("take", "db", "--out", tmp_path / "no" / "such" / "folder")
    assert done.code == ExitCode.USAGE
    (lease,) = agent("list", "--json").json["leases"]
    assert lease["because"] == "returned"


@pytest.mark.parametrize(
    "arguments",
    [
        ("db", "--env", "--json"),
        ("db", "--env", "--out", "x"),
        ("db", "--ttl", "soon"),
        ("db=", "--env"),
        ("db=1ST",),
        ("db=A B",),
        ("=A",),
        ("2fa",),
        ("db", "--key", "nowhere.pem"),
        ("db", "--wait", "-1"),
        ("payroll", "--encrypted", "--auth-req-id", "apr_1"),
    ],
)
def test_options_that_make_no_sense(agent: Agent, broker: BrokerThread, arguments: tuple[str, ...]) -> None:
    """Refused before anything is asked."""
    assert agent("take", *arguments).code == ExitCode.USAGE
    assert broker.entries("lease.intended") == []


@pytest.mark.parametrize(
    ("secret", "code", "exit_code"),
    [
        ("other", "secret_not_allowed", ExitCode.REFUSED),
        ("letter", "encryption_required", ExitCode.REFUSED),
        ("absent", "backend_refused", ExitCode.REFUSED),
        ("deed", "proof_required", ExitCode.REFUSED),
    ],
)
def test_refusals(agent: Agent, secret: str, code: str, exit_code: ExitCode) -> None:
    """They name the code, and the record to look at."""
    done = agent("take", secret)
    assert (done.code, done.out) == (exit_code, "")
    assert done.err.startswith(f"broker: {code}: ")
    assert agent("take", secret, "--json").json_error["code"] == code


def test_keys_and_encryption(agent: Agent) -> None:
    """What demands them is had with them."""
    assert agent("take", "deed", "--dpop").code == 0
    done = agent("take", "letter", "--encrypted")
    assert (done.code, set(json.loads(done.out))) == (0, {"value"})


def test_what_people_decide(agent: Agent) -> None:
    """Waited for as long as is said; or gone without, where the policy lets."""
    done = agent("take", "payroll", "--wait", "0")
    assert done.code == ExitCode.PENDING
    assert "--auth-req-id apr_" in done.err
    request = done.err.split("--auth-req-id ")[1].strip()
    again = agent("take", "payroll", "--wait", "0", "--auth-req-id", request, "--json")
    assert (again.code, again.json_error["auth_req_id"]) == (ExitCode.PENDING, request)
    assert agent("take", "payroll", "--break-glass", "salaries are due").code == 0


def test_an_unknown_agent(shell: Shell, broker: BrokerThread, alpha: Path) -> None:
    """It cannot sign in."""
    for command in (("take", "db"), ("list",), ("renew", "lease_1"), ("return", "lease_1")):
        done = shell("lease", *command, "--agent", "nobody", "--key", alpha)
        assert done.code == ExitCode.NOT_AUTHORISED
        assert "operator" not in done.err


def test_no_broker(shell: Shell, alpha: Path) -> None:
    """It says so."""
    done = shell("lease", "take", "db", "--agent", "alpha", "--key", alpha, "--issuer-url", "http://127.0.0.1:9")
    assert done.code == ExitCode.UNAVAILABLE
    assert done.err.startswith("broker: no_broker: ")


def test_renewing_and_returning(agent: Agent, reaper: None) -> None:
    """It says until when it lasts, and what became of it; once more is no error, and nothing is renewed then."""
    lease = agent.take("db", "--ttl", "1m")
    assert f"{lease} goes on until 20" in agent("renew", lease, "--ttl", "5m").out
    assert 295 <= agent("renew", lease, "--ttl", "5m", "--json").json["lease_duration"] <= 300
    done = agent("return", lease)
    assert done.out.startswith(f"{lease}: revoked\n")
    assert "because:" in done.out
    assert agent("return", lease, "--json").json["state"] == "revoked"
    late = agent("renew", lease)
    assert (late.code, late.err.split(": ")[1]) == (ExitCode.REFUSED, "lease_ended")


def test_returning_without_the_backends_word(agent: Agent) -> None:
    """The broker is still at it, and that is what is said."""
    lease = agent.take("db")
    assert agent("return", lease, "--confirm-within", "0").out.startswith(f"{lease}: retrying\n")


def test_the_agents_own_leases(agent: Agent, shell: Shell, broker: BrokerThread, template: Template) -> None:
    """And nobody else's; chosen by state, secret or task."""
    assert agent("list").out == "There are no such leases.\n"
    first = agent.take("db")
    agent("return", first, "--confirm-within", "0")
    second = agent.take("db")
    listed = agent("list").out.splitlines()
    assert listed[0].split() == ["id", "secret", "state", "expires", "task", "because"]
    assert [line.split()[0] for line in listed[1:]] == [second, first]
    chosen = agent("list", "--state", "live", "--secret", "db", "--json").json["leases"]
    assert [lease["lease_id"] for lease in chosen] == [second]
    refused = agent("list", "--state", "lively")
    assert (refused.code, "opening" in refused.err) == (ExitCode.REFUSED, True)


def test_leases_of_a_task(agent: Agent, broker: BrokerThread) -> None:
    """Taken, listed, renewed and returned with tokens of that task."""
    task = broker.run(_open(broker))
    lease = agent.take("db", "--task", task, "--ttl", "1m")
    agent.take("db")
    assert [each["lease_id"] for each in agent("list", "--task", task, "--json").json["leases"]] == [lease]
    assert agent("renew", lease, "--task", task).code == 0
    assert agent("return", lease, "--task", task, "--confirm-within", "0").code == 0


async def _open(broker: BrokerThread) -> str:
    token = await broker.app.token("alpha", "broker", "tasks:open")
    body = {"purpose": "look"}
    headers = {"Idempotency-Key": "k1"}
    reply = await broker.app.call("POST", "/v1/tasks", token=token, json=body, headers=headers)
    return str(reply.json["id"])


@pytest.mark.parametrize("lease", ["..", "a/b", "x?wait=1", "lease_1%2f.."])
@pytest.mark.parametrize("command", ["renew", "return"])
def test_impossible_ids(agent: Agent, command: str, lease: str) -> None:
    """What cannot be an id never becomes another path of the API."""
    assert agent(command, lease).code == ExitCode.USAGE


# --- operators


def test_operators_see_all_leases(agent: Agent, shell: Shell) -> None:
    """With who holds them; chosen by what they have in common."""
    assert shell("leases", "list").out == "There are no such leases.\n"
    lease = agent.take("db")
    listed = shell("leases", "list").out.splitlines()
    assert listed[1].split()[:5] == [lease, "live", "alpha", "db", "local"]
    for option, value in (("agent", "alpha"), ("secret", "db"), ("backend", "local"), ("state", "live")):
        assert lease in shell("leases", "list", f"--{option}", value).out
        if option != "state":
            assert lease not in shell("leases", "list", f"--{option}", "none").out
    assert "higher --limit" in shell("leases", "list", "--limit", 1).out
    told = shell("leases", "show", lease).out
    assert "can end it" in told
    assert "alpha" in told


def test_a_lease_that_cannot_be_revoked(agent: Agent, shell: Shell, broker: BrokerThread) -> None:
    """It is tried again when an operator says so, or given up, with the reason on record."""
    lease = agent.take("db")
    live = shell("leases", "abandon", lease, "--reason", "x")
    assert (live.code, live.err.split(": ")[1]) == (ExitCode.REFUSED, "lease_ended")
    agent("return", lease, "--confirm-within", "0")
    assert shell("leases", "retry", lease).out.startswith(f"{lease}: retrying\n")
    done = shell("leases", "abandon", lease, "--reason", "the database is gone")
    assert done.out.startswith(f"{lease}: abandoned\n")
    assert "the database is gone" in done.out
    (settled,) = broker.entries("lease.settled")
    assert (settled["by"], settled["note"]) == ("operator", "the database is gone")


def test_leases_that_are_held(shell: Shell, broker: BrokerThread) -> None:
    """An operator lets them go, and says why."""
    assert shell("leases", "confirm", "--reason", "the backup is the right one").code == 0
    assert len(broker.entries("leases.confirmed")) == 1


def test_everything_below_a_path(shell: Shell, broker: BrokerThread) -> None:
    """Only where the backend has paths, and with the reason."""
    done = shell("leases", "revoke-prefix", "local", "database/creds", "--reason", "x")
    assert (done.code, done.err.split(": ")[1]) == (ExitCode.REFUSED, "backend_refused")
    assert shell("leases", "revoke-prefix", "local", "database/creds").code == ExitCode.USAGE


@pytest.mark.parametrize(
    ("option", "value"), [("secret", "db"), ("backend", "local"), ("lease", None), ("agent", "alpha")]
)
def test_revoking_leases(
    agent: Agent, shell: Shell, broker: BrokerThread, reaper: None, option: str, value: str | None
) -> None:
    """By what they were taken from, or whoever has them; counted before, and afterwards with what became of them."""
    lease = agent.take("db")
    selector = (f"--{option}", value or lease)
    preview = shell("revoke", *selector, "--preview").out
    assert "1, 1 of which can be ended" in preview
    assert broker.run(state_of(broker.app, lease)).status is LeaseStatus.LIVE
    done = shell("revoke", *selector, "--reason", "lost")
    assert (done.code, "1, 1 of which can be ended" in done.out) == (0, True), done.err
    assert broker.run(settled(broker.app, lease)).status is LeaseStatus.REVOKED


def test_what_people_are_asked_for(agent: Agent, shell: Shell, broker: BrokerThread, template: Template) -> None:
    """The request says that it is about a secret, and which."""
    agent("take", "payroll", "--wait", "0")
    key = write_private_key(broker.folder / "carol.pem", template.keys["carol"])
    text = broker.config.read_text().replace('agent = "operator"', 'agent = "carol"')
    carol = broker.folder / "carol.toml"
    carol.write_text(text.replace('key = "operator.pem"', f'key = "{key}"'))
    listed = shell("approvals", "list", "--config", carol)
    assert "the secret payroll" in listed.out, listed.err
    request = listed.out.splitlines()[1].split()[0]
    told = shell("approvals", "show", request, "--config", carol).out
    assert "a leased secret" in told


@pytest.mark.parametrize("lease", ["..", "a/b", "confirm/x"])
def test_impossible_ids_of_operators(shell: Shell, broker: BrokerThread, lease: str) -> None:
    """As for agents."""
    for command in (("show", lease), ("retry", lease), ("abandon", lease, "--reason", "x")):
        assert shell("leases", *command).code == ExitCode.USAGE


# --- variables


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ({"value": "x y"}, {"V": "x y"}),
        ({"n": 5}, {"V": "5"}),
        ({"user": "u", "pass-word": "p", "ttl": True, "more": {"a": [1]}, "no": None},
         {"V_USER": "u", "V_PASS_WORD": "p", "V_TTL": "true", "V_MORE": '{"a": [1]}', "V_NO": "null"}),
        ({}, {}),
    ],
)  # fmt: skip
def test_members_become_variables(data: dict[str, object], expected: dict[str, str]) -> None:
    """One is the variable; several have their names behind it; what is not text is JSON."""
    assert lease_variables.variables("V", data) == expected


@pytest.mark.parametrize(
    "data", [{"value": "s3cr3t\0"}, {"a": "s3cr3t", "A": "t"}, {"a-b": "s3cr3t", "a_b": "t"}, {"v": "s3cr3t\ud800"}]
)
def test_what_no_environment_can_hold(data: dict[str, object]) -> None:
    """It is refused, and the text holds nothing of the secret."""
    with pytest.raises(Failure) as refused:
        lease_variables.variables("V", data)
    assert "s3cr3t" not in refused.value.text


@pytest.mark.parametrize(
    ("leases", "files"), [(["a", "a"], []), (["a-b", "a_b"], []), (["a=X"], ["b=X"]), (["a"], ["a"])]
)
def test_two_secrets_never_go_into_one_variable(leases: list[str], files: list[str]) -> None:
    """That is told before anything is taken."""
    with pytest.raises(Failure, match="usage"):
        lease_variables.deliveries(leases, files)
