"""Measure: `python -m bench [NAMES…] [--quick] [--reps 3] [--json FILE]`."""

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from bench import machine, report
from bench.cases import (
    breaker,
    calls,
    depth,
    domino,
    drain,
    fairness,
    footprint,
    keys,
    metastable,
    overload,
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
    "domino": domino.rows,
    "overload": overload.rows,
    "metastable": metastable.rows,
    "breaker": breaker.rows,
}


def main() -> int:
    asked = _asked()
    folder = HOME / "work"
    folder.mkdir(parents=True, exist_ok=True)
    command = " ".join(["python -m bench", *sys.argv[1:]])
    described = machine.describe(folder)
    print(report.head(described, command), flush=True)
    session = Session(folder, reps=asked.reps or (1 if asked.quick else 3), quick=asked.quick)
    others = machine.Others()
    found: list[Row] = []
    failed = False
    for name in asked.names or CASES:
        try:
            for measured in CASES[name](session):
                row = replace(measured, others=others.share())
                found.append(row)
                print("\n" + report.text(row), flush=True)
        except Exception as error:  # noqa: BLE001 (the border: one case that fails must not take the others along)
            failed = True
            print(f"\n{name}: FAILED: {type(error).__name__}: {error}", flush=True)
    print(report.summary(found))
    if asked.json:
        asked.json.write_text(json.dumps(report.document(described, command, found), indent=1), encoding="utf-8")
    return 1 if failed else 0


def _asked() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench", description="Figures beside targets, limits and peers.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"cases: {', '.join(CASES)}; all by default")
    parser.add_argument("--quick", action="store_true", help="smaller, once each: about three minutes")
    parser.add_argument("--reps", type=int, help="how often each is measured; the median counts (default 3)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything measured to a file")
    asked = parser.parse_args()
    unknown = set(asked.names) - set(CASES)
    if unknown:
        parser.error(f"there is no case {', '.join(sorted(unknown))}; there are {', '.join(CASES)}")
    return asked


if __name__ == "__main__":
    sys.exit(main())
