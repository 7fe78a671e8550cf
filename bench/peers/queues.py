"""Peers that work durable messages: enqueued one by one and in bulk, drained by one process, then idle."""

import mmap
import struct
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from msgspec import Struct

from bench import children
from bench.children import ROOT, Child, ChildFailed
from bench.figures import Beside
from bench.peers import environment
from bench.peers.servers import Broker, running
from bench.session import Sample, Session, percentile

SCRIPTS = ROOT / "bench" / "peers" / "scripts"
STILL_S = 15.0  # without a task done: it hangs


class Peer(Struct, frozen=True):
    """How a peer is measured: its script, its broker, and how many messages it can take in reasonable time."""

    name: str
    script: str
    broker: Broker
    singles: int
    bulk: int = 0
    late: int = 300


PEERS = (
    Peer("huey on SQLite with fsync", "q_huey", "", 6_000, late=100),
    Peer("Celery on Redis (everysec)", "q_celery", "valkey", 4_000),
    Peer("taskiq on Redis (everysec)", "q_taskiq", "valkey", 4_000, 4_000),
    Peer("FastStream on JetStream, push", "q_faststream", "nats", 5_000, 10_000),
)
PGQUEUER = Peer("pgqueuer on PostgreSQL", "q_pgqueuer", "postgres", 1_000, 40_000)

# Which of a peer's figures a row of ours is compared with.
_KEYS = {
    "drain": (("drain", "rate", "/s"), ("CPU", "CPU", "µs")),
    "send": (("send", "rate", "/s"),),
    "bulk": (("bulk", "rate", "/s"),),
    "latency": (("p50", "p50", "ms"), ("p99", "p99", "ms")),
    "memory": (("memory", "memory", "MB"),),
}


def beside(session: Session, what: str, peers: Sequence[Peer] = PEERS) -> Sequence[Beside]:
    """Give what every peer does of `what`: drain, send, bulk, latency or memory."""
    return [one for peer in peers if (one := _one(session, peer, what)) is not None]


def _one(session: Session, peer: Peer, what: str) -> Beside | None:
    if what == "bulk" and not peer.bulk:
        return None  # it has no such way
    all_of_it = session.beside(
        peer.name,
        lambda: _once(session, peer),
        {"drain": "/s", "send": "/s", "bulk": "/s", "CPU": "µs", "p50": "ms", "p99": "ms", "memory": "MB"},
        reps=1 if session.quick else None,
    )
    known = {figure.label: figure for figure in all_of_it.figures}
    figures = [
        type(known[key])(label, known[key].unit, known[key].values) for key, label, _ in _KEYS[what] if key in known
    ]
    return Beside(peer.name, figures, all_of_it.missing)


def _once(session: Session, peer: Peer) -> Sample:
    share = 3 if session.quick else 1
    singles, bulk, late = peer.singles // share, peer.bulk // share, peer.late // share
    with ExitStack() as stack:
        python = environment.python(session)
        folder = stack.enter_context(session.scratch())
        home = folder / "broker"
        home.mkdir()
        url = stack.enter_context(running(peer.broker, python, home))
        env = children.environment(
            BENCH_URL=url,
            BENCH_DIR=str(folder),
            BENCH_CAP=str(singles + bulk + late + 1000),
            PATH=f"{python.parent}:/usr/bin:/bin",
            PYTHONPATH=str(SCRIPTS),
        )

        def start(*arguments: object) -> Child:
            argv = [str(python), str(SCRIPTS / f"{peer.script}.py"), *map(str, arguments)]
            return stack.enter_context(children.started(argv, folder, env))

        sent = start("enqueue", singles, bulk).says("seq", 90)
        worker = start("worker")
        _until(folder, singles + bulk, worker)
        found = probes(folder)
        first_s, last_s = min(one.first_s for one in found), max(one.last_s for one in found)
        pids = worker.pids()
        sample = {
            "drain": (singles + bulk - 1) / (last_s - first_s),
            "CPU": (children.cpu_s(pids) - sum(one.cpu_s for one in found)) / (singles + bulk) * 1e6,
            "send": sent["seq"],
            "memory": sum(children.memory_mb(pid) for pid in pids),
        }
        if bulk:
            sample["bulk"] = sent["bulk"]
        start("late", late, 0.005).says("took", 60)
        _until(folder, singles + bulk + late + WARM_UP, worker)
        ages_ms = [age * 1000 for one in probes(folder) for age in one.ages_s]
        return sample | {"p50": percentile(ages_ms, 0.5), "p99": percentile(ages_ms, 0.99)}


WARM_UP = 20


class Probe(Struct):
    """What a process of a peer noted of the tasks that it did."""

    count: int
    first_s: float
    last_s: float
    cpu_s: float  # at the first task
    ages_s: list[float]


def probes(folder: Path) -> list[Probe]:
    """Read what the processes of a peer have noted so far."""
    found: list[Probe] = []
    for file in folder.glob("probe-*"):
        with file.open("rb") as opened:
            data = mmap.mmap(opened.fileno(), 0, prot=mmap.PROT_READ)
        count, first_s, last_s, cpu_s = struct.unpack_from("qddd", data)
        if count:
            ages_s = [age for age in struct.unpack_from(f"{count}d", data, 32) if age >= 0]
            found.append(Probe(count, first_s, last_s, cpu_s, ages_s))
    return found


def _until(folder: Path, count: int, worker: Child) -> None:
    last, since_s = -1, time.monotonic()
    while (done := sum(one.count for one in probes(folder))) < count:
        if done != last:
            last, since_s = done, time.monotonic()
        if worker.ended or time.monotonic() - since_s > STILL_S:
            raise ChildFailed(f"only {done} of {count} tasks were done. {worker.tail()}")
        time.sleep(0.05)  # its processes only leave marks in a file
