"""Simulate: `python tests/simulation/simulate.py [--seeds 100000] [--first 0] | [--seed 4711 --trace]`."""

import argparse
import multiprocessing
import os
import sys
import time
from collections.abc import Iterator

from simulated.seed import simulate

BATCH = 50
BATCHES_A_PROCESS = 10  # what stood in the tasks of a service that crashed is freed with its process only
FAILURES_MAX = 5


def _batch(seeds: range) -> list[tuple[int, list[str]]]:
    return [(seed, broken) for seed in seeds if (broken := simulate(seed)[0])]


def _batches(first: int, count: int) -> Iterator[range]:
    for at in range(first, first + count, BATCH):
        yield range(at, min(at + BATCH, first + count))


def _many(first: int, count: int, processes: int) -> int:
    began_s, done, failed = time.monotonic(), 0, 0
    with multiprocessing.Pool(processes, maxtasksperchild=BATCHES_A_PROCESS) as pool:
        batches = list(_batches(first, count))
        for batch, found in zip(batches, pool.imap(_batch, batches), strict=True):
            done += len(batch)
            for seed, broken in found:
                failed += 1
                print(f"\nseed {seed}:\n  " + "\n  ".join(broken))
                print(f"  again: make simulate ARGS='--seed {seed} --trace'", flush=True)
            rate = done / (time.monotonic() - began_s)
            left_s = (count - done) / rate
            print(f"\r{done:,} of {count:,} seeds, {rate:.0f} a second, {left_s:.0f} s left ", end="", file=sys.stderr)
            if failed >= FAILURES_MAX:
                break
    print(f"\n{done:,} seeds from {first} on: {failed or 'none'} broken", flush=True)
    return 1 if failed else 0


def main() -> int:
    if os.environ.get("PYTHONHASHSEED") != "0":  # the order in sets of words is chance, too
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, "PYTHONHASHSEED": "0"})
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=100_000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--seed", type=int)
    parser.add_argument("--trace", action="store_true")
    parser.add_argument("--processes", type=int, default=multiprocessing.cpu_count())
    asked = parser.parse_args()
    if asked.seed is None:
        return _many(asked.first, asked.seeds, asked.processes)
    broken, lines = simulate(asked.seed, trace=asked.trace)
    print("\n".join([*lines, *broken]) or "nothing broken")
    return 1 if broken else 0


if __name__ == "__main__":
    raise SystemExit(main())
