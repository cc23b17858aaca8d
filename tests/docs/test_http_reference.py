"""The reference of the HTTP API names every route with its scope, every code, and every member of a lease."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from broker.core.errors import Code
from broker.core.lease import LeaseStatus
from broker.http.call import Route
from broker.http.leases import LeaseBody, PrefixBody, RenewalBody
from broker.http.problem import status_of
from broker.http.routes import API_ROUTES

PAGE = (Path(__file__).parents[2] / "docs" / "reference" / "http-api.md").read_text()
LEASES = PAGE.partition("### Leases\n")[2].partition("### Revocations\n")[0]


def _rows() -> dict[tuple[str, str], str]:
    """Return what the tables of routes say: the row of each method and path, queries and names of parts left out."""
    found: dict[tuple[str, str], str] = {}
    for row in re.findall(r"^\| `(?:GET|POST|DELETE) /v1/.*$", PAGE, re.MULTILINE):
        method = ""
        for called, path in re.findall(r"`(?:(GET|POST|DELETE) )?(/v1/[^`?]*)[^`]*`", row.split(" | ")[0]):
            method = called or method
            found[method, _plain(path)] = row
    return found


def _plain(path: str) -> str:
    return re.sub(r"\{[^}]*\}", "{}", path)


ROWS = _rows()


@pytest.mark.parametrize("route", API_ROUTES, ids=lambda route: f"{route.method} {route.path}")
def test_every_route_is_described(route: Route) -> None:
    """With the scope that it needs."""
    row = ROWS.get((route.method, _plain(route.path)))
    assert row is not None
    if isinstance(route.access, str):
        assert f"`{route.access}`" in row


def test_no_route_is_made_up() -> None:
    """What is described exists."""
    assert ROWS.keys() <= {(route.method, _plain(route.path)) for route in API_ROUTES}


def test_every_code_is_described() -> None:
    """Once each, with its status; and no other is."""
    told = re.findall(r"^\| `([a-z_]+)` \| .* \((\d+);", PAGE.partition("## Codes\n")[2], re.MULTILINE)
    assert sorted(told) == sorted((code.value, str(int(status_of(code)))) for code in Code)


def test_leases_are_described() -> None:
    """Each state, each member that a request takes, and each code that only leases have."""
    members = {name for body in (LeaseBody, RenewalBody, PrefixBody) for name in body.__struct_fields__}
    codes = {code.value for code in Code if code.value.startswith(("lease_", "backend_", "secret_", "encryption_"))}
    words = {*members, *codes, *(status.value for status in LeaseStatus)}
    assert {word for word in words if not re.search(rf"[`\"]{word}[`\"]", LEASES)} == set()
