"""``python -m tests.chaos``: brokers, verifiers and clients under load, revocations, faults, and then the proof.

Without ``--faults`` it measures propagation. It ends with 0 only if the checker finds nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
from collections import Counter
from pathlib import Path

from tests.chaos.ground import Ground
from tests.chaos.journal import Tail
from tests.chaos.measures import quantiles, times
from tests.chaos.replicas import Replicas
from tests.chaos.run import WAIT, Plan, Refuted, Run


def main() -> int:
    """Run once, print the figures, and judge."""
    asked = _parser().parse_args()
    plan = Plan(
        verifiers=asked.verifiers,
        pause=asked.pause,
        every=asked.every,
        revokers=asked.revokers,
        seconds=60 * asked.minutes,
        revocations=asked.revocations,
        wait=asked.wait,
        faults=asked.faults,
        calm=asked.calm,
    )
    with tempfile.TemporaryDirectory(prefix="broker-chaos-") as temporary:
        folder = Path(temporary) if asked.folder is None else asked.folder
        clients = tuple(f"client-{number}" for number in range(1, asked.clients + 1))
        ground = Ground(folder, clients, asked.workers)
        if asked.replicas:
            ground = Replicas(folder, clients, replicas=asked.replicas)
        ground.prepare()
        run = Run(ground, plan)
        try:
            asyncio.run(run.run())
        except Refuted as refuted:
            print(refuted, file=sys.stderr)
            return 1
        finally:
            _print_figures(ground.place().journals)
        print(run.figures, end="")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=(__doc__ or "").splitlines()[0])
    brokers = parser.add_mutually_exclusive_group()
    brokers.add_argument("--workers", type=int, default=1, help="processes that share one SQLite file")
    brokers.add_argument("--replicas", type=int, default=0, help="processes that share one PostgreSQL, instead")
    parser.add_argument("--verifiers", type=int, default=10, help="verifiers in processes of their own")
    parser.add_argument("--clients", type=int, default=3, help="clients that get and use tokens")
    parser.add_argument("--pause", type=float, default=0.05, help="seconds between two rounds of each of those")
    parser.add_argument("--every", type=float, default=0.5, help="seconds between two revocations")
    parser.add_argument("--revokers", type=int, default=1, help="processes that revoke")
    parser.add_argument("--revocations", type=int, help="how many by each; by default as many as there is time for")
    parser.add_argument("--wait", type=float, default=WAIT, help="seconds for which each may wait to be applied")
    parser.add_argument("--minutes", type=float, default=1.0, help="how long, unless that many are done before")
    parser.add_argument("--faults", type=int, default=0, metavar="N", help="so many faults at a time")
    parser.add_argument("--calm", type=float, default=1.0, help="seconds between two faults")
    parser.add_argument("--folder", type=Path, help="where to leave everything; by default it is removed")
    return parser


def _print_figures(journals: Path) -> None:
    took = times(journals)
    seen = [one.refused for one in took if one.refused is not None]
    faults = Counter(f"{line['target'].split()[0]} {line['name']}" for line in Tail(journals / "faults.jsonl").new())
    print(f"revocations: {len(took)}, places each: {sum(one.places for one in took) / max(1, len(took)):.1f}")
    print(f"call to answer, p50 / p99 / max:        {quantiles(one.answered for one in took)}")
    print(f"call to last acceptance, the same:      {quantiles(one.accepted for one in took)}")
    print(f"call to last first refusal, the same:   {quantiles(seen)}")
    print(f"answers that said applied: {sum(one.applied for one in took)}")
    print(f"faults: {json.dumps(faults, sort_keys=True)}")


if __name__ == "__main__":
    sys.exit(main())
