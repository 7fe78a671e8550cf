"""A PostgreSQL store drained by one worker process, beside pgqueuer; and what a handler that writes a row costs."""

import asyncio
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from servers.postgres import RealPostgres

from bench import children
from bench.cases.drain import one_process
from bench.cases.draining import Place, drained
from bench.figures import Beside, Figure, Row, Target, at_least
from bench.peers import queues
from bench.peers.servers import postgres
from bench.session import Sample, Samples, Session, figure, median
from ringpost.settings import Settings
from ringpost.store import store_for

TIMES = 1.6
SHARE = 50
ALONE = "asyncpg alone, a transaction for each row"


class Database:
    """A store in a database of its own."""

    def __init__(self, server: RealPostgres) -> None:
        self._server = server
        self._name = server.new_database()
        self.url = server.url(self._name, tcp=True)
        asyncio.run(_made(self.url))

    def rate(self, before: int, /) -> float:
        """Read from the rows themselves how many were settled a second, of a store that was empty."""
        assert before == 0
        sql = "SELECT count(*), min(started_ms), max(settled_ms) FROM ringpost.message WHERE state = 10"
        ((count, first_ms, last_ms),) = self._server.execute(self._name, sql)
        return float(count / (last_ms - first_ms) * 1000)


def rows(session: Session) -> Iterator[Row]:
    with _draining(session) as drain:
        idle = drain("PostgreSQL, 200 slots", session.size(60_000, 30_000))
        theirs = queues.beside(session, "drain", [queues.PGQUEUER])
        yield Row(
            "drain, one worker process, 200 slots, PostgreSQL",
            [figure(idle, "rate", "/s", _target(theirs)), figure(idle, "CPU", "µs"), figure(idle, "memory", "MB")],
            peers=theirs,
            note=f"at least 30,000 /s or {TIMES:g} × pgqueuer; CPU is the worker's, the server needs as much again",
        )
        wide = drain("PostgreSQL, 1,000 slots", session.size(60_000, 30_000), slots=1000)
        yield Row(
            "drain, one worker process, 1,000 slots, PostgreSQL",
            [figure(wide, "rate", "/s"), figure(wide, "CPU", "µs")],
            peers=theirs,
        )
        many, few = session.size(30_000, 15_000), session.size(6_000, 3_000)
        deferred = drain("PostgreSQL, tx.defer", many, handler="defer")
        yield _share("PostgreSQL, a handler that writes a row by `tx.defer`, against none", deferred, idle)
        executed = drain("PostgreSQL, tx.execute", few, handler="execute")
        yield _share(
            "PostgreSQL, a handler that writes a row by `tx.execute`, against none",
            executed,
            idle,
            drain.alone(few),
        )
    alone = one_process(session)
    deferred = session.measure("SQLite, tx.defer", lambda: drained(session, many, handler="defer"))
    yield _share("SQLite, a handler that writes a row by `tx.defer`, against none", deferred, alone)
    executed = session.measure("SQLite, tx.execute", lambda: drained(session, few, handler="execute"))
    yield _share("SQLite, a handler that writes a row by `tx.execute`, against none", executed, alone)


def _target(theirs: Sequence[Beside]) -> Target:
    """Give what is to be reached: 30,000 a second, or so many times what pgqueuer did, whichever is less."""
    known = [one.median for beside in theirs for one in beside.figures if one.label == "rate"]
    return at_least(min([30_000.0, *[TIMES * rate for rate in known]]))


def _share(what: str, ours: Samples, idle: Samples, raw: Samples | None = None) -> Row:
    base = median(idle["rate"])

    def shares(samples: Samples) -> list[float]:
        return [rate / base * 100 for rate in samples["rate"]]

    share = Figure("share", "%", shares(ours), at_least(SHARE))
    limit = None if raw is None else Beside(ALONE, [Figure("share", "%", shares(raw)), figure(raw, "rate", "/s")])
    return Row(what, [share, figure(ours, "rate", "/s"), figure(ours, "CPU", "µs")], limit)


class _Draining:
    """Drains stores of one server."""

    def __init__(self, session: Session, server: RealPostgres) -> None:
        self._session = session
        self._server = server

    def __call__(self, name: str, count: int, **options: Any) -> Samples:
        return self._session.measure(name, lambda: drained(self._session, count, place=self._place, **options))

    def alone(self, count: int) -> Samples:
        """Do without us what a handler that writes does, on the same server."""

        def once() -> Sample:
            with self._session.scratch() as folder:
                return children.told("raw_handling", folder, url=self._place(folder).url, count=count)

        return self._session.measure(ALONE, once)

    def _place(self, _: Path) -> Place:
        return Database(self._server)


@contextmanager
def _draining(session: Session) -> Generator[_Draining]:
    with postgres() as server:
        yield _Draining(session, server)


async def _made(url: str) -> None:
    store = store_for(url, Settings())
    await store.open(create=True)
    await store.close()
