"""Peers that answer calls: one server and one client process each, the same payload checked on both sides."""

from collections.abc import Mapping, Sequence

import msgspec

from bench import children
from bench.children import ROOT
from bench.figures import Beside, Unit
from bench.peers import environment
from bench.session import Sample, Session

SCRIPTS = ROOT / "bench" / "peers" / "scripts"
PEERS = {
    "FastAPI on uvicorn + httpx": ("fastapi", "httpx"),
    "aiohttp both sides": ("aiohttp", "aiohttp"),
    "grpc.aio": ("grpc", "grpc"),
}


def beside(session: Session, at_once: int, units: Mapping[str, Unit]) -> Sequence[Beside]:
    """Give what every peer does with so many calls at once."""
    named = []
    for name, (server, client) in PEERS.items():
        one = session.beside(
            f"{name}, {at_once} at once",
            lambda server=server, client=client: _once(session, server, client, at_once),  # type: ignore[misc]
            units,
            reps=1 if session.quick else None,
        )
        named.append(Beside(name, one.figures, one.missing))
    return named


def _once(session: Session, server: str, client: str, at_once: int) -> Sample:
    python, env = str(environment.python(session)), children.environment()
    seconds = 1.0 if session.quick or at_once == 1 else 2.0
    with (
        session.scratch() as folder,
        children.started([python, str(SCRIPTS / "call_server.py"), server], folder, env) as serving,
    ):
        url = serving.says("url")["url"]
        asked = {"url": url, "server_pid": serving.pid, "at_once": at_once, "seconds": seconds}
        argv = [python, str(SCRIPTS / "call_client.py"), msgspec.json.encode(asked).decode(), client]
        with children.started(argv, folder, env) as calling:
            said: Sample = calling.says("measured", 60)["measured"]
            return said
