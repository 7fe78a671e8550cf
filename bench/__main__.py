"""Measure: `python -m bench [NAMES…] [--quick] [--reps 3] [--json FILE] [--draw FOLDER]`."""

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from bench import machine, pictures, report
from bench.cases import (
    breaker,
    calls,
    cost,
    depth,
    domino,
    drain,
    fairness,
    footprint,
    keys,
    metastable,
    overload,
    postgres,
    processes,
    purge,
    send,
    stage,
    wake,
)
from bench.figures import Row
from bench.peers.environment import HOME
from bench.session import Session

CASES: dict[str, Callable[[Session], Iterator[Row]]] = {
    "import": footprint.importing,
    "drain": drain.rows,
    "stage": stage.rows,
    "processes": processes.rows,
    "send": send.rows,
    "wake": wake.rows,
    "depth": depth.rows,
    "keys": keys.rows,
    "fairness": fairness.rows,
    "calls": calls.own_door,
    "asgi": calls.under_uvicorn,
    "memory": footprint.memory,
    "purge": purge.rows,
    "postgres": postgres.rows,
}

# Minutes each: a load that is offered for as long as it takes to see whether something lasts.
EXPERIMENTS: dict[str, Callable[[Session], Iterator[Row]]] = {
    "domino": domino.rows,
    "overload": overload.rows,
    "metastable": metastable.rows,
    "breaker": breaker.rows,
    "cost": cost.rows,
}
ALL = CASES | EXPERIMENTS
GROUPS = {"figures": tuple(CASES), "resilience": tuple(EXPERIMENTS)}


def main() -> int:
    asked = _asked()
    folder = HOME / "work"
    folder.mkdir(parents=True, exist_ok=True)
    command = " ".join(["python -m bench", *sys.argv[1:]])
    described = machine.describe(folder)
    print(report.head(described, command), flush=True)
    reps = asked.reps or (1 if asked.quick else 3)
    session = Session(folder, reps=reps, quick=asked.quick, long_reps=asked.reps or 1)
    others = machine.Others()
    found: list[Row] = []
    failed = False
    for name in _cases(asked.names or ["figures"]):
        try:
            for measured in ALL[name](session):
                row = replace(measured, others=others.share())
                found.append(row)
                print("\n" + report.text(row), flush=True)
        except Exception as error:  # noqa: BLE001 (the border: one case that fails must not take the others along)
            failed = True
            print(f"\n{name}: FAILED: {type(error).__name__}: {error}", flush=True)
    print(report.summary(found))
    document = report.document(described, command, found, session.charts)
    if asked.json:
        asked.json.write_text(json.dumps(document, indent=1), encoding="utf-8")
    if asked.draw:
        print("\n".join(pictures.draw(session, document, asked.draw)))
    return 1 if failed else 0


def _cases(names: Sequence[str]) -> list[str]:
    return list(dict.fromkeys(case for name in names for case in GROUPS.get(name, (name,))))


def _asked() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench", description="Figures beside targets, limits and peers.")
    parser.add_argument("names", nargs="*", metavar="NAME",
                        help=f"{', '.join(ALL)}; or figures, which is what comes by default, or resilience: the "
                             f"{len(EXPERIMENTS)} last of them")  # fmt: skip
    parser.add_argument("--quick", action="store_true", help="smaller, once each: about three minutes")
    parser.add_argument(
        "--reps",
        type=int,
        help="how often each is measured; the median counts (default 3; 1 for domino, overload, metastable)",
    )
    parser.add_argument("--draw", type=Path, metavar="FOLDER", help="draw what the experiments saw, as SVG")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything measured to a file")
    asked = parser.parse_args()
    unknown = set(asked.names) - set(ALL) - set(GROUPS)
    if unknown:
        parser.error(f"there is no case {', '.join(sorted(unknown))}; there are {', '.join([*ALL, *GROUPS])}")
    return asked


if __name__ == "__main__":
    sys.exit(main())
