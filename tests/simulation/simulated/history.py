"""What happened in one run, as those saw it who asked and those who did the work."""

from collections import Counter, defaultdict
from collections.abc import Callable
from typing import Literal

from msgspec import Struct

from ringpost.core.receipt import Status

Ending = Literal["ok", "failed", "unknown"]


class Asked(Struct):
    """One request of somebody. `unknown`: a time-out or a break; it may have taken effect or not."""

    kind: str
    id: str
    ending: Ending = "unknown"
    said: str = ""
    denied: bool = False  # its caller was told that certainly nothing was done
    sent: bool = False  # a receipt was given: it takes effect or ends visibly


class Watched(Struct):
    """The states of a ticket, each as it was seen for the first time."""

    id: str
    kind: str
    states: list[tuple[int, str]] = []
    result: Ending = "unknown"


class History:
    """Everything that checks are about. `trace` gets a line for each thing that happens."""

    def __init__(self, trace: Callable[[str], None]) -> None:
        self.trace = trace
        self.asked: list[Asked] = []
        self.tickets: list[Watched] = []
        self.starts: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self.late: list[str] = []
        self.calls: Counter[str] = Counter()  # by target: that went out
        self.attempts: Counter[str] = Counter()  # by target: requests that were made for them
        self.good: Counter[str] = Counter()  # by target: that earned something for its budget
        self.probes: defaultdict[str, list[float]] = defaultdict(list)  # under way now: until when each is one
        self.broken: list[str] = []  # what was seen at the moment of it

    def ask(self, kind: str, id: str) -> Asked:
        asked = Asked(kind, id)
        self.asked.append(asked)
        self.trace(f"{kind} {id} is asked")
        return asked

    def end(self, asked: Asked, ending: Ending, said: str = "") -> None:
        asked.ending, asked.said = ending, said
        self.trace(f"{asked.kind} {asked.id}: {ending} {said}")

    def begun(self, kind: str, id: str, remaining_s: float) -> None:
        """Take note of a handler that begins, with the time that its caller has left for it."""
        self.starts[kind][id] += 1
        self.trace(f"the handler of {kind} {id} begins, {remaining_s:.3f} s left")
        if remaining_s <= 0:
            self.late.append(f"{kind} {id}")

    def seen(self, watched: Watched, status: Status) -> None:
        state = (status.generation, status.state)
        if not watched.states or watched.states[-1] != state:
            watched.states.append(state)
            self.trace(f"the ticket of {watched.kind} {watched.id} says {status.state}")
