"""Agents and tasks as AWS takes them: in its characters, and never one in the place of another."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from broker.core.aws_session import TAGS_CLAIM, session_claims, source_identity
from broker.core.identity import federated_id

TAG = re.compile(r"[A-Za-z0-9 _.:/=+\-@]{1,256}")
SOURCE = re.compile(r"[A-Za-z0-9_=+,.@-]{2,64}")
NAMES = st.from_regex(r"[a-z0-9]([a-z0-9._-]{0,126}[a-z0-9])?", fullmatch=True)
AGENTS = NAMES | st.builds(federated_id, st.just("lab"), st.text(min_size=1, max_size=40).filter(str.isprintable))


def _tag(agent: str) -> str:
    tag: str = session_claims(agent=agent, task="task_1")[TAGS_CLAIM]["principal_tags"]["agent"][0]
    return tag


@given(AGENTS)
def test_aws_takes_it(agent: str) -> None:
    """Whatever an agent is called, its tag and its source identity are ones that AWS takes."""
    assert TAG.fullmatch(_tag(agent))
    assert SOURCE.fullmatch(source_identity(agent))


@given(AGENTS, AGENTS)
def test_no_two_agents_look_the_same(one: str, other: str) -> None:
    """What stands for one agent stands for no other."""
    assert (_tag(one) == _tag(other)) == (one == other)
    assert (source_identity(one) == source_identity(other)) == (one == other)


def test_a_name_that_fits_stays_as_it_is() -> None:
    """An operator can write it into a trust policy as it stands; anything else has a digest behind ``=``."""
    assert (_tag("prod-cluster/support/triage"), source_identity("reviewer")) == (
        "prod-cluster/support/triage",
        "reviewer",
    )
    assert re.fullmatch(r"prod-cluster-support-triage=[0-9a-f]{16}", source_identity("prod-cluster/support/triage"))
    assert re.fullmatch(r"a=[0-9a-f]{16}", source_identity("a"))
    assert re.fullmatch(r"lab/a-2Fb=[0-9a-f]{16}", _tag("lab/a%2Fb"))
