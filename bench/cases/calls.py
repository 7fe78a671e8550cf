"""Calls over HTTP, one process a side: through our own door, and through the same door under uvicorn."""

from collections.abc import Iterator

from bench import children
from bench.children import Child
from bench.figures import Beside, Figure, Row, Unit, at_least, at_most
from bench.peers import calls as peers
from bench.session import Sample, Samples, Session, figure

UNITS: dict[str, Unit] = {"rate": "/s", "p50": "µs", "p99": "µs", "client CPU": "µs", "server CPU": "µs"}
SLOTS = 200


def own_door(session: Session) -> Iterator[Row]:
    """Give the rows of our own door."""
    many = session.measure("calls over HTTP, 64 at once", lambda: _own(session, 64))
    yield Row(
        "calls over HTTP, own door, 64 at once",
        [
            figure(many, "rate", "/s", at_least(60_000)),
            figure(many, "client CPU", "µs", at_most(18)),
            figure(many, "server CPU", "µs", at_most(18)),
            figure(many, "p50", "µs"),
            figure(many, "p99", "µs"),
        ],
        _raw(session, 64),
        peers.beside(session, 64, UNITS),
    )
    one = session.measure("calls over HTTP, one at a time", lambda: _own(session, 1))
    yield Row(
        "calls over HTTP, own door, one at a time",
        [figure(one, "p50", "µs", at_most(135)), figure(one, "p99", "µs"), figure(one, "rate", "/s"), *_sides(one)],
        _raw(session, 1),
        peers.beside(session, 1, UNITS),
    )


def under_uvicorn(session: Session) -> Iterator[Row]:
    """Give the rows of the door as an ASGI application."""
    many = session.measure("calls over uvicorn, 64 at once", lambda: _asgi(session, 64))
    yield Row(
        "calls over HTTP, ASGI under uvicorn, 64 at once",
        [figure(many, "rate", "/s", at_least(28_000)), figure(many, "p99", "µs"), *_sides(many)],
    )
    one = session.measure("calls over uvicorn, one at a time", lambda: _asgi(session, 1))
    yield Row(
        "calls over HTTP, ASGI under uvicorn, one at a time",
        [figure(one, "p50", "µs", at_most(160)), figure(one, "p99", "µs"), *_sides(one)],
    )


def _sides(samples: Samples) -> list[Figure]:
    return [figure(samples, "client CPU", "µs"), figure(samples, "server CPU", "µs")]


def _own(session: Session, at_once: int) -> Sample:
    with (
        session.scratch() as folder,
        children.part("worker", folder, handler="echo", http="127.0.0.1:0", slots=SLOTS) as server,
    ):
        url = server.notes("the door is at ")
        return _called(session, "call", server, url, at_once)


def _asgi(session: Session, at_once: int) -> Sample:
    with session.scratch() as folder, children.part("asgi_server", folder) as server:
        return _called(session, "call", server, server.says("url")["url"], at_once)


def _raw(session: Session, at_once: int) -> Beside:
    def once() -> Sample:
        with session.scratch() as folder, children.part("raw_echo", folder) as server:
            return _called(session, "raw_call", server, server.says("url")["url"], at_once)

    return session.beside(f"httptools and uvloop alone, {at_once} at once", once, UNITS)


def _called(session: Session, part: str, server: Child, url: str, at_once: int) -> Sample:
    seconds = 1.5 if session.quick else 3.0
    with session.scratch() as folder:
        return children.told(
            part, folder, url=url, server_pid=server.pid, at_once=at_once, seconds=seconds if at_once > 1 else 1.5
        )
