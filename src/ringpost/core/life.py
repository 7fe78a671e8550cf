"""The life of a message: one table, and everything that asks it.

A row is a delivery, and its one state is all there is to know. It is *scheduled* until it is due, *waiting* while
another of its line is before it, *ready* to be claimed, *running* under a lease and a fence, *forwarded* while another
store has it. It ends *succeeded* or *failed* (the handler's answer), *cancelled*, *expired*, or *dead* (given up).

Whoever moves a row compares first: the state it must be in, and out of running the fence under which it is held. Where
nothing matches, nothing of the change is applied. Five things hold whatever happens:

1. The fence rises at every entry into running, so that of two who believe to hold a row only the later one can write.
2. An end is left by replay alone, which opens the next generation, or with its row.
3. Of a line at most one is ready, running or tried again; it is the head, and whoever ends it wakes the next.
4. What a ticket shows never goes back: (generation, rank) never falls.
5. The reservation of a keyed call is never claimed: it is answered, removed, or overtaken by a repeat of the call.

The table below is the whole of it; the diagram and the table in the documentation are made from it.
"""

from collections.abc import Iterable, Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Literal, Protocol

from msgspec import Struct

from ringpost.core.message import Kind, State
from ringpost.core.receipt import TicketState


class Happening(StrEnum):
    """What can happen to a row."""

    PUT = "put"
    RESERVE = "reserve"
    DUE = "due"
    TURN = "turn"
    CLAIM = "claim"
    RENEW = "renew"
    PROGRESS = "progress"
    SUCCEED = "succeed"
    RETRY = "retry"
    DEFER = "defer"
    RELEASE = "release"
    REJECT = "reject"
    LEASE_END = "lease end"
    OVERTAKE = "overtake"
    HAND_OVER = "hand over"
    OUTCOME = "outcome"
    CANCEL = "cancel"
    STOPPED = "stopped"
    EXPIRE = "expire"
    REPLAY = "replay"
    DROP = "drop"
    PURGE = "purge"
    TAKE_OUT = "take out"
    TAKE_IN = "take in"


NOTHING = None
"""No row: not yet, or no more."""

Place = State | None
Fence = Literal["", "checked", "new"]
_BOTH = frozenset(Kind)
_MESSAGES = frozenset({Kind.MESSAGE})
_CALLS = frozenset({Kind.CALL})


class Transition(Struct, frozen=True):
    """One line of the table: from each of `sources`, to one of `targets`.

    `fence`: `checked` where the write is guarded by the fence under which the row is held, `new` where it draws the
    next one. `kinds`: which rows it can happen to.
    """

    happening: Happening
    sources: frozenset[Place]
    targets: frozenset[Place]
    who: str
    guard: str
    fence: Fence = ""
    kinds: frozenset[Kind] = _BOTH


def _line(
    happening: Happening,
    sources: Iterable[Place],
    targets: Iterable[Place],
    who: str,
    guard: str,
    fence: Fence = "",
    kinds: frozenset[Kind] = _BOTH,
) -> Transition:
    return Transition(happening, frozenset(sources), frozenset(targets), who, guard, fence, kinds)


SCHEDULED, WAITING, READY, RUNNING, FORWARDED = (
    State.SCHEDULED,
    State.WAITING,
    State.READY,
    State.RUNNING,
    State.FORWARDED,
)
SUCCEEDED, FAILED, CANCELLED, EXPIRED, DEAD = (
    State.SUCCEEDED,
    State.FAILED,
    State.CANCELLED,
    State.EXPIRED,
    State.DEAD,
)
ENDS = frozenset(state for state in State if state.terminal)
QUEUED = frozenset({SCHEDULED, WAITING, READY})

H = Happening
# fmt: off
TRANSITIONS: tuple[Transition, ...] = (
    _line(H.PUT, [NOTHING], [READY, WAITING, SCHEDULED], "sender, settlement of another",
          "id and key unknown, else a duplicate; waiting where its line is taken, scheduled with a delay",
          kinds=_MESSAGES),
    _line(H.RESERVE, [NOTHING], [RUNNING], "door", "id and key unknown; a lease", "new"),
    _line(H.DUE, [SCHEDULED], [READY, WAITING], "upkeep", "due; the head of a line goes to ready", kinds=_MESSAGES),
    _line(H.TURN, [WAITING], [READY], "whoever ends the head, upkeep", "the first of its line, and no other head",
          kinds=_MESSAGES),
    _line(H.CLAIM, [READY], [RUNNING], "worker", "not expired, queue not paused, body whole; a lease", "new",
          _MESSAGES),
    _line(H.CLAIM, [READY], [DEAD], "worker", "body damaged (checksum)", kinds=_MESSAGES),
    _line(H.RENEW, [RUNNING], [RUNNING], "holder", "held by it; hears whether cancelling was asked for"),
    _line(H.PROGRESS, [RUNNING], [RUNNING], "holder", "", "checked", _MESSAGES),
    _line(H.SUCCEED, [RUNNING], [SUCCEEDED, FAILED], "holder",
          "outcome, what was staged and SQL in the same commit", "checked"),
    _line(H.RETRY, [RUNNING], [SCHEDULED, DEAD], "holder",
          "attempts + 1 unless the intake breaker is open; dead after the last", "checked", _MESSAGES),
    _line(H.DEFER, [RUNNING], [SCHEDULED, DEAD], "holder", "no attempt is charged; dead after 30 days", "checked",
          _MESSAGES),
    _line(H.RELEASE, [RUNNING], [READY], "holder that stops", "no attempt is charged", "checked", _MESSAGES),
    _line(H.RELEASE, [RUNNING], [NOTHING], "holder", "the call failed or its process stops", "checked", _CALLS),
    _line(H.REJECT, [RUNNING], [DEAD], "holder", "rejected, undecodable or too many hops", "checked", _MESSAGES),
    _line(H.LEASE_END, [RUNNING], [READY, DEAD, CANCELLED], "upkeep of any process",
          "lease over, fence as read; losses + 1, dead at 5; cancelled if that was asked for", kinds=_MESSAGES),
    _line(H.LEASE_END, [RUNNING], [NOTHING], "upkeep of any process", "lease over, fence as read", kinds=_CALLS),
    _line(H.OVERTAKE, [RUNNING], [RUNNING], "door", "lease over, the same key and request; a lease", "new", _CALLS),
    _line(H.HAND_OVER, [RUNNING], [FORWARDED, SUCCEEDED], "forwarder", "forwarded where an outcome is wanted",
          "checked", _MESSAGES),
    _line(H.OUTCOME, [FORWARDED], ENDS, "forwarder", "generation as read, the other store's not older",
          kinds=_MESSAGES),
    _line(H.CANCEL, QUEUED, [CANCELLED], "owner of the ticket, operator", "state as read", kinds=_MESSAGES),
    _line(H.CANCEL, [RUNNING], [RUNNING], "owner of the ticket, operator", "the holder is told", kinds=_MESSAGES),
    _line(H.CANCEL, [FORWARDED], [FORWARDED], "owner of the ticket, operator", "the forwarder is told",
          kinds=_MESSAGES),
    _line(H.STOPPED, [RUNNING], [CANCELLED], "holder", "cancelling was asked for and ended the handler", "checked",
          _MESSAGES),
    _line(H.EXPIRE, QUEUED, [EXPIRED], "upkeep, claim, reader", "expired; running is left alone", kinds=_MESSAGES),
    _line(H.REPLAY, [DEAD], [READY, WAITING], "operator, audited",
          "generation as read; generation + 1, attempts and losses from 0", kinds=_MESSAGES),
    _line(H.DROP, [DEAD], [NOTHING], "operator, audited", "", kinds=_MESSAGES),
    _line(H.PURGE, ENDS, [NOTHING], "upkeep", "kept long enough"),
    _line(H.TAKE_OUT, [*QUEUED, FORWARDED, *ENDS], [NOTHING], "move", "as it was read, and durable in another store"),
    _line(H.TAKE_IN, [NOTHING], [*QUEUED, FORWARDED, *ENDS], "move",
          "id and key unknown; as it was in another store, but behind who stands in its line here", kinds=_MESSAGES),
    _line(H.TAKE_IN, [NOTHING], [SUCCEEDED, FAILED], "move", "id and key unknown", kinds=_CALLS),
)
# fmt: on


def _merged(kinds: frozenset[Kind]) -> Mapping[tuple[Place, Happening], frozenset[Place]]:
    merged: dict[tuple[Place, Happening], frozenset[Place]] = {}
    for line in TRANSITIONS:
        if line.kinds & kinds:
            for source in line.sources:
                place = (source, line.happening)
                merged[place] = merged.get(place, frozenset()) | line.targets
    return MappingProxyType(merged)


_ALLOWED = _merged(_BOTH)
_ALLOWED_OF = MappingProxyType({kind: _merged(frozenset({kind})) for kind in Kind})
_NOWHERE: frozenset[Place] = frozenset()


def allowed(state: Place, happening: Happening, kind: Kind | None = None) -> frozenset[Place]:
    """Give where a row may go from a state; None stands for no row. Empty: it can't happen there."""
    table = _ALLOWED if kind is None else _ALLOWED_OF[kind]
    return table.get((state, happening), _NOWHERE)


class Shown(Struct, frozen=True):
    """How a ticket shows a state: our word, and the word of HTTP's operations."""

    state: TicketState
    status: Literal["NotStarted", "Running", "Succeeded", "Failed", "Canceled"]
    rank: int  # never falls within a generation


_ACCEPTED = Shown("accepted", "NotStarted", 0)
_RUNNING = Shown("running", "Running", 1)
TICKETS: Mapping[State, Shown] = MappingProxyType(
    {
        State.SCHEDULED: _ACCEPTED,
        State.WAITING: _ACCEPTED,
        State.READY: _ACCEPTED,
        State.RUNNING: _RUNNING,
        State.FORWARDED: _RUNNING,
        State.SUCCEEDED: Shown("succeeded", "Succeeded", 2),
        State.FAILED: Shown("failed", "Failed", 2),
        State.CANCELLED: Shown("cancelled", "Canceled", 2),
        State.EXPIRED: Shown("expired", "Failed", 2),
        State.DEAD: Shown("failed", "Failed", 2),
    }
)


class Living(Protocol):
    """A row, as far as its ticket goes."""

    @property
    def state(self) -> State: ...
    @property
    def started_ms(self) -> int | None: ...


def shown(row: Living) -> Shown:
    """Say how a ticket shows a row. What has once started is running until it ends, though it may wait again."""
    plain = TICKETS[row.state]
    return _RUNNING if plain is _ACCEPTED and row.started_ms is not None else plain


def ticket_state(row: Living) -> TicketState:
    """Give the word that a ticket shows for a row."""
    return shown(row).state


def mermaid() -> str:
    """Draw the table as a state diagram of Mermaid."""
    labels: dict[tuple[str, str], list[str]] = {}
    for line in TRANSITIONS:
        for source in sorted(line.sources, key=_order):
            for target in sorted(line.targets, key=_order):
                said = labels.setdefault((_mark(source), _mark(target)), [])
                if line.happening not in said:
                    said.append(line.happening)
    arrows = [f"    {source} --> {target}: {', '.join(said)}" for (source, target), said in labels.items()]
    return "\n".join(["stateDiagram-v2", *arrows]) + "\n"


def markdown() -> str:
    """Write the table for readers."""
    rows = ["| what happens | from | to | by whom | if, and what else |", "|---|---|---|---|---|"]
    for line in TRANSITIONS:
        guards = [{"": "", "checked": "**fence**", "new": "new fence"}[line.fence], line.guard]
        if line.kinds == _CALLS:
            guards.append("keyed calls only")
        sources, targets = (
            ", ".join(_word(place) for place in sorted(places, key=_order)) for places in (line.sources, line.targets)
        )
        rows.append(f"| {line.happening} | {sources} | {targets} | {line.who} | {'; '.join(filter(None, guards))} |")
    return "\n".join(rows) + "\n"


def _order(place: Place) -> int:
    return 0 if place is None else place


def _word(place: Place) -> str:
    return "–" if place is None else place.name.lower()


def _mark(place: Place) -> str:
    return "[*]" if place is None else place.name.lower()
