"""The policy file is loaded as a whole, or its problems are told with file and line."""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path

import pytest

from broker.core.decide import decide
from broker.core.errors import BrokerError, Code
from broker.core.grant import Ask, Granted
from broker.core.identity import Agent
from broker.core.policy import OPERATOR_SCOPES, PolicyError
from broker.core.rules import BlockIndex
from broker.policy_file import load_policy
from tests.support.policies import DOCUMENT, ISSUER, compiled

SMALL = """\
version: 1
issuers:
  lab:
    preset: oidc
    issuer: "https://lab.example"
    jwks_file: keys.json
roles:
  r:
    members:
      - {issuer: lab, subject: x}
    allow:
      - {audience: broker, scopes: ["ledger:read"]}
"""


def load(tmp_path: Path, text: str, name: str = "policy.yaml") -> None:
    """Write a policy file and load it."""
    (tmp_path / name).write_text(text)
    load_policy(tmp_path / name, ISSUER)


def refusal(tmp_path: Path, text: str) -> list[str]:
    """Return the lines of a refusal, without the folder of the file."""
    with pytest.raises(PolicyError) as caught:
        load(tmp_path, text)
    return str(caught.value).replace(str(tmp_path) + "/", "").split("\n")


def test_json_and_yaml_give_the_same_policy(tmp_path: Path) -> None:
    """The digest is of what is said, not of how it is written."""
    for name in ("policy.json", "policy.yaml"):
        (tmp_path / name).write_text(json.dumps(DOCUMENT))
    policies = [load_policy(tmp_path / name, ISSUER) for name in ("policy.json", "policy.yaml")]
    assert policies[0].digest == policies[1].digest == compiled().digest
    assert policies[0].broker_audience == ISSUER + "/v1"


def test_problems_have_their_line(tmp_path: Path) -> None:
    """Each problem names file, line, key and reason; a missing key stands at its parent's line."""
    text = (
        SMALL.replace("ledger:read", "nope").replace("jwks_file: keys.json", "audience: []").replace("subject", "sbj")
    )
    narrow = "add a subject or claims (or say any_subject: true to mean every agent of this issuer)"
    assert refusal(tmp_path, text) == [
        "policy.yaml:6: issuers.lab.audience: must not be empty: leave it out, or put something in",
        f"policy.yaml:10: roles.r.members[0]: {narrow}",
        "policy.yaml:10: roles.r.members[0].sbj: unknown key; known here: agent, issuer, subject, claims, any_subject",
        "policy.yaml:12: roles.r.allow[0].scopes[0]: 'nope' is not a scope of this audience of this policy",
    ]


@pytest.mark.parametrize("text", ["", "- a\n", "x\n", "5\n"])
def test_what_is_no_mapping_is_no_policy(tmp_path: Path, text: str) -> None:
    """An empty file, a list or a word is refused."""
    assert refusal(tmp_path, text) == ["policy.yaml:1: (the whole document): must be a mapping"]


def test_the_error_can_be_shown_to_an_operator(tmp_path: Path) -> None:
    """It is a BrokerError with the code for bad policies, and its public text is the list of problems."""
    with pytest.raises(BrokerError) as caught:
        load(tmp_path, "version: 2\n")
    assert caught.value.code is Code.POLICY_INVALID
    assert "policy.yaml:1: version: must be 1" in caught.value.public


def test_keys_from_a_file(tmp_path: Path) -> None:
    """``jwks_file`` is read relative to the policy, and the digest changes with the keys."""
    digests = set()
    for x in ("AA", "AB"):
        (tmp_path / "keys.json").write_text(json.dumps({"keys": [{"kty": "OKP", "crv": "Ed25519", "x": x}]}))
        (tmp_path / "policy.yaml").write_text(SMALL)
        policy = load_policy(tmp_path / "policy.yaml", ISSUER)
        assert policy.issuers["lab"].jwks == {"keys": [{"kty": "OKP", "crv": "Ed25519", "x": x}]}
        digests.add(policy.digest)
    assert len(digests) == 2


def test_bad_key_files(tmp_path: Path) -> None:
    """A key file that is missing, malformed or holds private keys is a problem of the issuer that names it."""
    assert refusal(tmp_path, SMALL) == [
        "policy.yaml:6: issuers.lab.jwks_file: cannot be read: No such file or directory"
    ]
    (tmp_path / "keys.json").write_text("{")
    assert "issuers.lab.jwks_file: not JSON" in refusal(tmp_path, SMALL)[0]
    (tmp_path / "keys.json").write_text('{"keys": [{"kty": "EC", "d": "x"}]}')
    told = refusal(tmp_path, SMALL)[0]
    assert told.startswith("policy.yaml:4: issuers.lab.jwks.keys[0]: is a private") or "issuers.lab.jwks.keys" in told
    assert "must be the path of a .json file" in refusal(tmp_path, SMALL.replace("keys.json", "keys.pem"))[0]
    both = SMALL.replace("    jwks_file", "    jwks: {keys: [{kty: EC}]}\n    jwks_file")
    assert "issuers.lab.jwks_file: unknown key" in refusal(tmp_path, both)[0]


def test_the_policy_of_a_new_broker() -> None:
    """The template compiles, and its operator may do everything that the broker's own API offers, and nothing else."""
    template = resources.files("broker") / "templates" / "policy.yaml"
    with resources.as_file(template) as path:
        policy = load_policy(path, "http://127.0.0.1:8640")
    everything = Ask(audience=policy.broker_audience, scopes=tuple(sorted(OPERATOR_SCOPES)))
    operator = Agent("operator", "registered", "operator")
    assert isinstance(decide(policy, BlockIndex(), operator, everything, 0.0), Granted)
    other = Agent("other", "registered", "other")
    assert not isinstance(decide(policy, BlockIndex(), other, everything, 0.0), Granted)


def test_the_examples_in_the_template_are_sound(tmp_path: Path) -> None:
    """With the marks of remarks taken away, what the template shows compiles as well."""
    text = (resources.files("broker") / "templates" / "policy.yaml").read_text()
    shown = [line.replace("# ", "", 1) if "# " in line.lstrip()[:2] else line for line in text.splitlines()]
    start = next(place for place, line in enumerate(shown) if line.startswith("version"))
    sentences = ("Whose word", "Resource servers", "How sensitive", "Who may ask")
    kept = [line for line in shown[start:] if not line.strip().startswith(sentences)]
    (tmp_path / "policy.yaml").write_text("\n".join(kept))
    policy = load_policy(tmp_path / "policy.yaml", ISSUER)
    assert policy.roles.keys() == {"operators", "support-triage", "resource-servers"}
    assert policy.issuers.keys() == {"prod-cluster", "github", "mesh"}
