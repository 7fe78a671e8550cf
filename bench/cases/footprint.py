"""What a worker process holds of the memory, and how long the import takes."""

import sys
from collections.abc import Callable, Iterator

from bench import children
from bench.cases.drain import one_process
from bench.figures import Beside, Figure, Row, at_most
from bench.peers import environment, queues
from bench.session import Sample, Session, figure

IMPORT = (
    "import sys, time; began = time.perf_counter(); import {module};"
    " import json; print(json.dumps({{'import': (time.perf_counter() - began) * 1000,"
    " 'loaded': sorted(set(sys.modules) & {unwanted})}}))"
)
UNWANTED = {
    *("apsw", "asyncpg", "nats", "redis"),
    *("httptools", "uvloop", "uvicorn", "rich", "click", "jsonschema", "cronsim"),
}
PEERS = ("celery.app.base", "fastapi", "faststream", "taskiq")


def memory(session: Session) -> Iterator[Row]:
    """Give the row of the memory."""
    yield Row(
        "memory of a worker process after draining",
        [figure(one_process(session), "memory", "MB", at_most(55))],
        peers=queues.beside(session, "memory"),
    )


def importing(session: Session) -> Iterator[Row]:
    """Give the row of the import."""
    loaded: list[str] = []

    def once(python: str, module: str) -> Sample:
        with session.scratch() as folder:
            program = IMPORT.format(module=module, unwanted=UNWANTED)
            with children.started([python, "-c", program], folder, children.environment()) as child:
                said = child.says("import")
                loaded.extend(said["loaded"] if module == "ringpost" else ())
                return {"import": said["import"]}

    reps = max(5, session.reps)
    ours = session.measure("import ringpost", lambda: once(sys.executable, "ringpost"), reps=reps)
    yield Row(
        "import ringpost",
        [
            figure(ours, "import", "ms", at_most(100)),
            Figure("drivers, servers", "loaded", [float(len(set(loaded)))], at_most(0)),
        ],
        peers=[_peer(session, peer, once, reps) for peer in PEERS],
        note=", ".join(sorted(set(loaded))),
    )


def _peer(session: Session, module: str, once: Callable[[str, str], Sample], reps: int) -> Beside:
    def their_own() -> Sample:
        return once(str(environment.python(session)), module)

    return session.beside(f"import {module}", their_own, {"import": "ms"}, reps=reps)
