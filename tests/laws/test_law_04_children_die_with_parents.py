"""Law 4, as far as delegation exists: a token dies with any ancestor, judged by its own verified claims."""

from __future__ import annotations

from dataclasses import replace

import pytest

from broker.core.claims import parse_claims
from broker.core.selector import Selector
from tests.support.fakes import CALLER
from tests.support.world import World, order


@pytest.mark.parametrize(
    "selector",
    [
        Selector(token="tok_parent"),
        Selector(token="tok_root"),
        Selector(task="task_root"),
        Selector(task="task_middle"),
        Selector(agent="planner"),
        Selector(agent="root-planner"),
    ],
)
async def test_a_token_dies_with_each_ancestor(world: World, selector: Selector) -> None:
    """Parent tokens, parent tasks and the agents that delegated: revoking any of them ends the child."""
    issued = await world.issue()
    child = replace(
        issued.claims,
        parents=("tok_root", "tok_parent"),
        path=("task_root", "task_middle"),
        agents=(issued.claims.client_id, "planner"),
        sub="root-planner",
    )
    minted = world.signer.mint(child)
    world.signer.check(minted, child, world.clock.time)
    assert world.lives(minted.token)
    await world.revocation.revoke(order(selector), CALLER)
    assert not world.lives(minted.token)
    assert world.lives(issued.token)


async def test_lineage_cannot_be_shed(world: World) -> None:
    """It is in the signed claims: a payload without it is another token, which nobody signed."""
    issued = await world.issue()
    child = replace(issued.claims, parents=("tok_parent",))
    minted = world.signer.mint(child)
    header, _, signature = minted.token.split(".")
    bare = world.signer.mint(issued.claims).token.split(".")[1]
    assert parse_claims(child.to_payload()).parents == ("tok_parent",)
    assert world.lives(minted.token)
    assert not world.lives(f"{header}.{bare}.{signature}")
