"""Member lines mean exactly the agents they describe, and remembering answers changes none."""

import re

import pytest

from broker.core.identity import Agent, Attribute
from broker.core.policy.matching import AgentMember, AnyOf, Exactly, FullMatch, IssuerMember, Member, Segments
from broker.core.policy.membership import Membership


def agent(subject: str = "s", /, issuer: str = "mesh", **claims: Attribute) -> Agent:
    """Return an agent of an issuer."""
    return Agent(f"{issuer}/{subject}", issuer, subject, claims)


def test_an_agent_line_means_one_agent() -> None:
    """Only the exact id matches."""
    line = AgentMember("alice")
    assert line.mismatch(Agent("alice", "registered", "alice")) is None
    assert line.mismatch(Agent("alice2", "registered", "alice2")) == "the agent is not alice"
    assert line.mismatch(Agent("mesh/alice", "mesh", "alice")) is not None


def test_the_issuer_is_always_compared() -> None:
    """The same subject vouched for by another issuer is another agent."""
    line = IssuerMember("mesh", Exactly("s"))
    assert line.mismatch(agent("s")) is None
    assert line.mismatch(agent("s", issuer="other")) == "the issuer is not mesh"


@pytest.mark.parametrize(
    ("value", "matches"),
    [
        ("support/triage", True),
        ("support/", False),
        ("support", False),
        ("support/a/b", False),
        ("xsupport/a", False),
        ("support/*", True),
    ],
)
def test_a_star_is_one_whole_segment(value: str, matches: bool) -> None:
    """``support/*`` covers one segment below support that is not empty, and nothing else."""
    assert Segments(("support", "*")).matches(value) is matches


def test_patterns_match_as_a_whole_and_within_bounds() -> None:
    """An alternative does not escape the anchoring, and over-long values never match."""
    match = FullMatch(re.compile("a|b+"))
    assert match.matches("a")
    assert match.matches("bb")
    assert not match.matches("ax")
    assert not match.matches("xb")
    assert match.matches("b" * 512)
    assert not match.matches("b" * 513)


@pytest.mark.parametrize(
    ("claim", "wanted", "matches"),
    [
        ("prod", "prod", True),
        ("prod ", "prod", False),
        (12345, "12345", True),
        (True, "true", True),
        (True, "1", False),
        (1, "true", False),
        (("a", "prod"), "prod", True),
        (("a", "b"), "prod", False),
        ((), "prod", False),
        ("", "prod", False),
    ],
)
def test_claims(claim: Attribute, wanted: str, matches: bool) -> None:
    """A claim matches by its text; of a list one item must."""
    line = IssuerMember("mesh", claims=(("environment", Exactly(wanted)),))
    assert (line.mismatch(agent(environment=claim)) is None) is matches


def test_every_claim_must_match_and_absent_ones_never_do() -> None:
    """Claims are ANDed, also with the subject."""
    line = IssuerMember("mesh", Exactly("s"), (("a", Exactly("1")), ("b", AnyOf((Exactly("2"), Exactly("3"))))))
    assert line.mismatch(agent("s", a="1", b="3")) is None
    assert line.mismatch(agent("s", a="1")) == "there is no claim b"
    assert line.mismatch(agent("s", a="1", b="4")) == "the claim b is not 2 or 3"
    assert line.mismatch(agent("t", a="1", b="3")) == "the subject is not s"


LINES: list[tuple[str, Member]] = [
    ("wide", IssuerMember("mesh", claims=(("team", Exactly("blue")),))),
    ("exact", IssuerMember("mesh", Exactly("s"))),
    ("named", AgentMember("mesh/s")),
    ("wide", IssuerMember("mesh", Segments(("x", "*")))),
]


def test_roles_come_in_the_order_of_the_file() -> None:
    """Whatever line was found first, the order of the roles stays."""
    membership = Membership(LINES)
    assert membership.of(agent("s", team="blue")) == ("wide", "exact", "named")
    assert membership.of(agent("s")) == ("exact", "named")
    assert membership.of(agent("x/y")) == ("wide",)
    assert membership.of(agent("z")) == ()


def test_remembered_answers_depend_on_everything_a_line_can_see() -> None:
    """The same id with other claims, another issuer or another subject is judged anew, whichever came first."""
    membership = Membership([("r", IssuerMember("mesh", Exactly("s"), (("n", Exactly("1")),)))])
    good = Agent("same", "mesh", "s", {"n": 1})
    for _ in range(2):
        assert membership.of(good) == ("r",)
        assert membership.of(Agent("same", "mesh", "s", {"n": True})) == ()
        assert membership.of(Agent("same", "mesh", "s", {"n": 1, "m": 2})) == ("r",)
        assert membership.of(Agent("same", "mesh", "s", {})) == ()
        assert membership.of(Agent("same", "mesh", "t", {"n": 1})) == ()
        assert membership.of(Agent("same", "other", "s", {"n": 1})) == ()


def test_attributes_changed_afterwards_are_noticed() -> None:
    """Even a caller that changes an agent's claims in place gets the right answer."""
    membership = Membership([("r", IssuerMember("mesh", claims=(("n", Exactly("1")),)))])
    claims: dict[str, Attribute] = {"n": "1"}
    same = Agent("a", "mesh", "s", claims)
    assert membership.of(same) == ("r",)
    claims["n"] = "2"
    assert membership.of(same) == ()


def test_the_memory_is_bounded() -> None:
    """However many agents come, no more than the bound are remembered."""
    membership = Membership(LINES, remembered=10)
    for number in range(100):
        assert membership.of(agent(f"x/{number}")) == ("wide",)
    assert len(membership._seen) == 10
