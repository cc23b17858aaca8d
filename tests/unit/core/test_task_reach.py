"""The reach of a token: which tasks its holder's being an owner counts for."""

from __future__ import annotations

from typing import Any

import pytest

from broker.core.claims import AccessClaims
from broker.core.task import Task
from broker.core.task_reach import reach_of


def _claims(**changes: Any) -> AccessClaims:  # noqa: ANN401 - members of the claims
    members: dict[str, Any] = {
        "iss": "https://broker.example",
        "sub": "planner",
        "aud": "https://broker.example/v1",
        "client_id": "planner",
        "iat": 0,
        "exp": 300,
        "jti": "tok_1",
        "scopes": ("tasks:open",),
        "epoch": 0,
        "task": "inner",
        "role": "planners",
        "tier": "operator",
        "issuer": "registered",
    }
    return AccessClaims(**(members | changes))


def _task(name: str, *path: str, implicit: bool = False) -> Task:
    return Task(
        id=name, owner="planner", role="planners", purpose="p", opened_at=0, deadline=900, path=path, implicit=implicit
    )


OWN, ABOVE, BELOW, BESIDE = (
    _task("inner", "root"),
    _task("root"),
    _task("leaf", "root", "inner"),
    _task("other", "root"),
)


@pytest.mark.parametrize(
    ("claims", "stored", "confined"),
    [
        (_claims(), None, False),
        (_claims(), _task("inner", implicit=True), False),
        (_claims(), _task("inner"), True),
        (_claims(path=("root",)), OWN, True),
        (_claims(path=("root",)), None, True),  # stored once, forgotten since
        (_claims(agents=("worker",)), None, True),
        (_claims(agents=("worker",)), _task("inner", implicit=True), True),
        (_claims(agents=("worker",), impersonates=True), None, True),
    ],
)
def test_what_confines_a_token(claims: AccessClaims, stored: Task | None, confined: bool) -> None:
    """A task that was opened, and having been handed on; a task of the token's own making does not."""
    assert reach_of(claims, stored).confined is confined


def test_a_confined_token_covers_its_own_tree() -> None:
    """Its task and those below it, none above or beside; one that is not confined covers all."""
    inside = reach_of(_claims(path=("root",)), OWN)
    assert [inside.covers(task) for task in (OWN, BELOW, ABOVE, BESIDE)] == [True, True, False, False]
    assert [inside.is_within(task) for task in (OWN, BELOW, ABOVE, BESIDE)] == [True, False, True, False]
    free = reach_of(_claims(task="own"), None)
    assert all(free.covers(task) for task in (OWN, BELOW, ABOVE, BESIDE))


def test_blocks_see_everybody_that_a_token_went_through() -> None:
    """The agents of the chain, their issuers, roles and tasks; not what the token is for."""
    inherited = (("agent", "first"), ("issuer", "cluster"), ("scope", "x:y"), ("task", "older"))
    claims = _claims(client_id="worker", agents=("worker", "middle"), path=("root",), inherited=inherited)
    assert reach_of(claims, OWN).facts() == {
        *(("agent", name) for name in ("planner", "worker", "middle", "first")),
        *(("task", name) for name in ("inner", "root", "older")),
        ("issuer", "registered"),
        ("issuer", "cluster"),
        ("role", "planners"),
    }
