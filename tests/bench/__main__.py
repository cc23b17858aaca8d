"""``make bench``: throughput and revocation times on this machine, as ratios within one run.

Without arguments all parts are measured; ``python -m tests.bench leases`` measures the named ones only.
Machines are noisy: read the ratios and the spread, not single figures. Rounds alternate between the things compared.
"""

from __future__ import annotations

import argparse
import asyncio
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
from collections.abc import Callable, Mapping
from pathlib import Path

import jwt
from cryptography.hazmat.primitives.asymmetric import ec
from rich.console import Console
from rich.table import Table

from broker.core.access_token import verify_access_token
from broker.core.claims import AccessClaims
from broker.core.jwk import KeySet, VerificationKey, public_jwk, thumbprint
from broker.core.rules import Rule, RuleIndex
from broker.core.selector import Selector
from tests.bench.anchors import measure as measure_anchors
from tests.bench.feed import measure as measure_feed
from tests.bench.leases import measure as measure_leases
from tests.bench.masses import measure as measure_masses
from tests.bench.overload import measure as measure_overload
from tests.bench.proofs import measure as measure_proofs
from tests.bench.propagation import measure as measure_propagation
from tests.bench.revoking import measure as measure_revoking
from tests.bench.revoking import measure_cut_off
from tests.bench.stage import Load, Stage
from tests.bench.verification import measure as measure_verifying
from tests.support.running_broker import free_port

ROUNDS = 3
SECONDS = 4.0
ASSERTIONS = 6000
MANY = 1_000_000


def main() -> None:
    """Run everything, or the parts that were named, and print one table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"one of {', '.join(PARTS)}; by default all")
    parser.add_argument("--tokens", type=int, default=MANY, help="live tokens in the large ledger")
    arguments = parser.parse_args()
    if unknown := set(arguments.parts) - set(PARTS):
        parser.error(f"no such part: {', '.join(sorted(unknown))}")
    table = Table(title=f"{platform.processor() or platform.machine()}, Python {platform.python_version()}")
    for column in ("work", "figure", "ratio", "what the ratio is to"):
        table.add_column(column)
    for name, measure in PARTS.items():
        if not arguments.parts or name in arguments.parts:
            with tempfile.TemporaryDirectory(prefix="broker-bench-") as folder:
                measure(Path(folder), table, arguments.tokens)
    Console(width=150).print(table)


def _tokens(folder: Path, table: Table, _many: int) -> None:
    stage = Stage(folder)
    try:
        stage.start()
        _throughput(stage, table)
    finally:
        stage.stop()


def _throughput(stage: Stage, table: Table) -> None:
    """Issuing and introspecting at 32 connections, in turn with a bare handler that sends the same bytes."""
    federated = stage.federated()
    operator = stage.operator_token()
    token = str(stage.send("/oauth2/token", stage.form_of(federated[0]))["access_token"])
    introspect = [stage.post("/oauth2/introspect", {"token": token}, f"Authorization: Bearer {operator}")]
    exchange, (reserve, settle) = stage.exchange(), stage.action()
    port = free_port()
    bare = subprocess.Popen([sys.executable, "-m", "tests.bench.bare", str(port)])
    work: Mapping[str, Callable[[], Load]] = {
        "bare": lambda: stage.load(introspect, seconds=SECONDS, port=port),
        "federated": lambda: stage.load(federated, seconds=SECONDS),
        "assertion": lambda: stage.load(stage.assertions(ASSERTIONS), seconds=60, once=True),
        "exchange": lambda: stage.load(exchange, seconds=SECONDS),
        "action": lambda: stage.load(reserve, seconds=SECONDS, then=settle),
        "introspection": lambda: stage.load(introspect, seconds=SECONDS),
    }
    _wait_for(port)
    rounds: dict[str, list[Load]] = {name: [] for name in work}
    try:
        for _ in range(ROUNDS):
            for name, run in work.items():
                rounds[name].append(run())
    finally:
        bare.terminate()
        bare.wait()
    base = _median(rounds["bare"])
    for name, title in (
        ("bare", "a bare aiohttp handler with the introspection's body"),
        ("federated", "tokens issued, durable, platform token"),
        ("assertion", "tokens issued, durable, private_key_jwt"),
        ("introspection", "introspections"),
    ):
        rates = [load.per_second for load in rounds[name]]
        p99 = statistics.median(load.p99 for load in rounds[name])
        figure = f"{_median(rounds[name]):,.0f}/s ({min(rates):,.0f} to {max(rates):,.0f}), p99 {p99:.1f} ms"
        table.add_row(title, figure, f"{_median(rounds[name]) / base:.2f}", "the bare handler")
    plain = _median(rounds["federated"])
    for name, title in (
        ("exchange", "tokens exchanged, durable, platform token as actor"),
        ("action", "actions reserved and settled, both durable"),
    ):
        rates = [load.per_second for load in rounds[name]]
        figure = f"{_median(rounds[name]):,.0f}/s ({min(rates):,.0f} to {max(rates):,.0f})"
        table.add_row(title, figure, f"{_median(rounds[name]) / plain:.2f}", "tokens issued, platform token")


def _offline(_folder: Path, table: Table, _many: int) -> None:
    """Verifying a token with 100 rules alive, in turn with bare ``jwt.decode``."""
    key = ec.generate_private_key(ec.SECP256R1())
    kid, now = thumbprint(public_jwk(key.public_key())), int(time.time())
    claims = AccessClaims(
        iss="https://broker.example",
        sub="prod-cluster/support/triage",
        aud="https://tickets.internal",
        client_id="prod-cluster/support/triage",
        iat=now,
        exp=now + 900,
        jti="tok_" + "0" * 26,
        scopes=("tickets:read",),
        epoch=100,
        task="task_" + "0" * 26,
        role="triage",
        tier="read",
        issuer="prod-cluster",
    )
    token = jwt.encode(claims.to_payload(), key, algorithm="ES256", headers={"kid": kid, "typ": "at+jwt"})
    keys = KeySet([VerificationKey(kid=kid, alg="ES256", key=key.public_key(), thumbprint=kid)])
    rules = RuleIndex(
        Rule(id=str(n), selector=Selector(agent=f"agent-{n}"), number=n, at=now, by="operator", reason="bench")
        for n in range(1, 101)
    )

    def ours() -> None:
        verified = verify_access_token(token, keys, issuer=claims.iss, audience=claims.aud, now=now)
        if rules.killer(verified.facts, verified.claims.epoch) is not None:
            raise AssertionError

    def bare() -> None:
        jwt.decode(token, key.public_key(), algorithms=["ES256"], audience=claims.aud)

    times = {name: [] for name in ("ours", "bare")}  # type: dict[str, list[float]]
    for _ in range(7):
        for name, run in (("ours", ours), ("bare", bare)):
            before = time.perf_counter()
            for _ in range(2000):
                run()
            times[name].append((time.perf_counter() - before) / 2000 * 1e6)
    mine, theirs = statistics.median(times["ours"]), statistics.median(times["bare"])
    figure = f"{1e6 / mine:,.0f}/s ({mine:.0f} µs)"
    table.add_row("offline verifications, 100 rules alive", figure, f"{mine / theirs:.2f}", "time of bare jwt.decode")


def _median(loads: list[Load]) -> float:
    return statistics.median(load.per_second for load in loads)


def _wait_for(port: int) -> None:
    async def connect() -> None:
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                await asyncio.sleep(0.05)
            else:
                writer.close()
                return

    asyncio.run(asyncio.wait_for(connect(), 20))


def _leases(folder: Path, table: Table, _many: int) -> None:
    measure_leases(folder, table)


def _anchors(folder: Path, table: Table, _many: int) -> None:
    measure_anchors(folder, table)


PARTS: Mapping[str, Callable[[Path, Table, int], None]] = {
    "tokens": _tokens,
    "verification": _offline,
    "revocation": measure_masses,
    "revoking": measure_revoking,
    "cut-off": measure_cut_off,
    "propagation": measure_propagation,
    "leases": _leases,
    "feed": measure_feed,
    "proofs": measure_proofs,
    "anchors": _anchors,
    "verifying": measure_verifying,
    "overload": measure_overload,
}

if __name__ == "__main__":
    try:
        main()
    except urllib.error.HTTPError as error:
        sys.exit(f"{error.url}: {error.code} {error.read().decode()}")
