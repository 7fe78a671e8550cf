"""Notes: the small register of a store. Which names there are, and what their values say, as JSON.

Values only ever gain fields with defaults: processes of two versions may read and write one store.
"""

from collections.abc import Iterable
from typing import Any, Literal, TypeVar

import msgspec
from msgspec import Struct

from ringpost.core.maintenance import Window

SUBSCRIPTION = "subscription/"
OPERATION = "operation/"
INSTANCE = "instance/"
PAUSE = "pause/"
MAINTENANCE = "maintenance/"
OVERRIDE = "override/"
BREAKERS = "breakers/"
QUEUE = "queue/"
RECEIVER = "receiver/"
PULLER = "puller/"
RELAY = "relay/"
ARRIVED = "arrived/"
TOLD = "told/"
MOVING = "moving"
MOVER = "mover"
STORES_MAX = 16


def subscription(event: str, queue: str) -> str:
    """Name the subscription of a queue to an event. With an empty queue: what all names of the event begin with."""
    return f"{SUBSCRIPTION}{event}/{queue}"


def subscribed(name: str) -> tuple[str, str]:
    """Give the event and the queue of a subscription by its name."""
    event, _, queue = name.removeprefix(SUBSCRIPTION).partition("/")
    return event, queue


def operation(full_name: str) -> str:
    """Name the note that describes an operation or event."""
    return OPERATION + full_name


def instance(id: str) -> str:
    """Name the note of a living process; leased."""
    return INSTANCE + id


def pause(queue: str) -> str:
    """Name the note that stops claims from a queue for as long as it is there."""
    return PAUSE + queue


def maintenance(service: str) -> str:
    """Name the note that says until when a service is closed."""
    return MAINTENANCE + service


def override(name: str) -> str:
    """Name the note by which an operator holds breakers: of a contract or operation, with `@` of one target only."""
    return OVERRIDE + name


def breakers(process: str) -> str:
    """Name the note in which a process shows its breakers that aren't closed; leased."""
    return BREAKERS + process


def queue(name: str) -> str:
    """Name the note that says to whom a queue belongs."""
    return QUEUE + name


def receiver(contract: str) -> str:
    """Name the note that says which store is behind the address of a contract."""
    return RECEIVER + contract


def puller(queue: str) -> str:
    """Name the note of the process that fetches the outcomes of what is away in a forward queue; leased."""
    return PULLER + queue


def relay(outbox: str) -> str:
    """Name the note of the process that relays from an outbox table; leased."""
    return RELAY + outbox


def arrived(store_id: str) -> str:
    """Name the note that says which rows came last from another store."""
    return ARRIVED + store_id


def told(store_id: str, event: str) -> str:
    """Name the note that says which entry came last into the log of an event from another store. It stays, so that a
    later move may go on behind it."""
    return f"{TOLD}{store_id}/{event}"


class Subscription(Struct, frozen=True, omit_defaults=True):
    """What subscribes to an event. A suspended one gets nothing; `gap_from_ms` and `gap_count` say what it missed, and
    `gap_at` which of that is the first in the event's log, if it has one. One that is `behind` gets nothing but what it
    is given of the log, until it has caught up: `read_at` is how far it has read, `read_to` how far it may read without
    a look at who publishes just now, `given` how many that brought it."""

    service: str = ""
    created_ms: int = 0
    seen_ms: int = 0
    suspended: bool = False
    gap_from_ms: int = 0
    gap_count: int = 0
    gap_at: int = 0
    behind: bool = False
    read_at: int = 0
    read_to: int = 0
    given: int = 0

    @property
    def live(self) -> bool:
        """Say whether it gets a delivery with the publish."""
        return not self.suspended and not self.behind

    @property
    def misses(self) -> bool:
        """Say whether what is published now is lost to it, unless it is refilled."""
        return self.suspended and not self.behind


class Described(Struct, frozen=True, omit_defaults=True):
    """An operation or event as who knows no Python of it needs it: to check and post a message from outside."""

    kind: Literal["operation", "event"] = "operation"
    service: str = ""  # who implements it
    doc: str = ""
    request: dict[str, Any] | None = None  # JSON Schema; of an event: of its data. None: takes nothing
    reply: dict[str, Any] | None = None  # None: nothing comes back
    problems: dict[str, dict[str, Any]] = {}  # type urn → JSON Schema of its members
    secrets: tuple[str, ...] = ()  # pointers into the request that must not be shown
    timeout_s: float | None = None
    ttl_s: float | None = None
    priority: str = ""
    effect: str = ""
    ordered: bool = False  # messages have an ordering key that only the contract can work out
    keyed: bool = False  # likewise an idempotency key
    log_s: int = 0  # of an event: how long its log keeps it; 0: it has none


class Instance(Struct, frozen=True, omit_defaults=True):
    """A living process, or the `processes` of one command, which share its door: where that is and what they serve.
    `pid` is then the command's."""

    url: str = ""  # empty: it has no door
    boot_id: str = ""
    host: str = ""
    pid: int = 0
    started_ms: int = 0
    version: str = ""
    operations: tuple[str, ...] = ()  # full names
    queues: tuple[str, ...] = ()  # that it claims from
    stopping: bool = False  # it still answers, for who knows no other
    processes: int = 1


class Pause(Struct, frozen=True, omit_defaults=True):
    """Who paused a queue, when and why."""

    who: str = ""
    at_ms: int = 0
    reason: str = ""


class Override(Struct, frozen=True, omit_defaults=True):
    """How breakers are held, by whom and why."""

    forced: Literal["", "open", "closed"] = ""
    who: str = ""
    at_ms: int = 0
    reason: str = ""


class ShownBreaker(Struct, frozen=True, omit_defaults=True):
    """A breaker that isn't closed, or is held."""

    operation: str = ""
    target: str = ""
    state: str = ""
    forced: str = ""
    since_ms: int = 0
    error: str = ""


class Breakers(Struct, frozen=True, omit_defaults=True):
    """Those of a process."""

    host: str = ""
    pid: int = 0
    breakers: tuple[ShownBreaker, ...] = ()


class Queue(Struct, frozen=True, omit_defaults=True):
    """To whom a queue belongs and what becomes of its dead."""

    service: str = ""
    on_failure: str = ""  # the queue that hears of them; empty: none
    halt: bool = False  # a dead head keeps its line waiting


class Receiver(Struct, frozen=True, omit_defaults=True):
    """Which stores were found behind an address, the present one last, at most 16."""

    stores: tuple[str, ...] = ()


class Relay(Struct, frozen=True, omit_defaults=True):
    """Who relays from an outbox table, and how it stood there a moment ago. `trouble`: why it can't go on now."""

    process: str = ""
    host: str = ""
    pid: int = 0
    at_ms: int = 0
    waiting: int = 0
    oldest_ms: int | None = None
    aside: int = 0
    trouble: str = ""


class Arrived(Struct, frozen=True, omit_defaults=True):
    """What came with the last commit of a move. It is known again even when it has been handled and purged since."""

    move: str = ""
    ids: frozenset[str] = frozenset()  # hexadecimal

    def of(self, move: str) -> frozenset[str]:
        """Give what came in this move, not in one before it: that may have gone back, and come once more."""
        return self.ids if self.move == move else frozenset()


class Told(Struct, frozen=True, omit_defaults=True):
    """Which entry came last into the log of an event from another store."""

    last: str = ""  # its id, hexadecimal


class Moving(Struct, frozen=True, omit_defaults=True):
    """That what is in this store is being moved to another one, until all of it is there."""

    move: str = ""
    target: str = ""  # its id
    url: str = ""
    who: str = ""
    since_ms: int = 0


def came(move: str, ids: Iterable[bytes], before: frozenset[str]) -> Arrived:
    """Note what comes now. Some of what came before comes again where a move was broken off: then the rest of it may
    come yet, and is remembered too."""
    now = frozenset(id.hex() for id in ids)
    return Arrived(move, now | before if now & before else now)


_Note = TypeVar(
    "_Note",
    Subscription,
    Described,
    Instance,
    Pause,
    Queue,
    Window,
    Override,
    Breakers,
    Receiver,
    Relay,
    Arrived,
    Told,
    Moving,
)

encode = msgspec.json.Encoder().encode
_subscription = msgspec.json.Decoder(Subscription)
_described = msgspec.json.Decoder(Described)
_instance = msgspec.json.Decoder(Instance)
_pause = msgspec.json.Decoder(Pause)
_maintenance = msgspec.json.Decoder(Window)
_queue = msgspec.json.Decoder(Queue)
_override = msgspec.json.Decoder(Override)
_breakers = msgspec.json.Decoder(Breakers)
_receiver = msgspec.json.Decoder(Receiver)
_relay = msgspec.json.Decoder(Relay)
_arrived = msgspec.json.Decoder(Arrived)
_told = msgspec.json.Decoder(Told)
_moving = msgspec.json.Decoder(Moving)


def decode_subscription(value: bytes) -> Subscription:
    return _read(_subscription, value, Subscription())


def decode_described(value: bytes) -> Described:
    return _read(_described, value, Described())


def decode_instance(value: bytes) -> Instance:
    return _read(_instance, value, Instance())


def decode_pause(value: bytes) -> Pause:
    return _read(_pause, value, Pause())


def decode_maintenance(value: bytes) -> Window:
    return _read(_maintenance, value, Window())


def decode_queue(value: bytes) -> Queue:
    return _read(_queue, value, Queue())


def decode_override(value: bytes) -> Override:
    return _read(_override, value, Override())


def decode_breakers(value: bytes) -> Breakers:
    return _read(_breakers, value, Breakers())


def decode_receiver(value: bytes) -> Receiver:
    return _read(_receiver, value, Receiver())


def decode_relay(value: bytes) -> Relay:
    return _read(_relay, value, Relay())


def decode_arrived(value: bytes) -> Arrived:
    return _read(_arrived, value, Arrived())


def decode_told(value: bytes) -> Told:
    return _read(_told, value, Told())


def decode_moving(value: bytes) -> Moving:
    return _read(_moving, value, Moving())


def _read(decoder: msgspec.json.Decoder[_Note], value: bytes, blank: _Note) -> _Note:
    """Read a value. One that can't be read says nothing: a note must never stop a store from working."""
    try:
        return decoder.decode(value)
    except msgspec.DecodeError:
        return blank
