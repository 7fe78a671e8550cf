"""The values that travel between verbs, stores and workers.

A *message* is what a sender hands over. A *delivery* is a row that a worker has claimed, under a lease and a fence. A
*settlement* says how a delivery ended. An *answer* is an outcome as both styles have it: what a call returns is what a
message's ticket gives. Instants are Unix milliseconds (`_ms`); they are the store's clock.
"""

from collections.abc import Mapping, Sequence
from enum import IntEnum
from typing import Any, Literal

from msgspec import Raw, Struct


class State(IntEnum):
    """The one state of a row. Live below 10, terminal from 10. No code below 2: SQLite stores 0 and 1 in no bytes,
    and a row that keeps its width is overwritten in place."""

    SCHEDULED = 2
    WAITING = 3
    READY = 4
    RUNNING = 5
    FORWARDED = 6
    SUCCEEDED = 10
    FAILED = 11
    CANCELLED = 12
    EXPIRED = 13
    DEAD = 14

    @property
    def terminal(self) -> bool:
        return self >= 10


class Kind(IntEnum):
    """What a row is: a message, or the reservation of a keyed call (never claimed by a worker)."""

    MESSAGE = 2
    CALL = 3


class Priority(IntEnum):
    """Which is taken first. Lower numbers first, so that an ascending index serves the claim."""

    HIGH = 2
    NORMAL = 3
    LOW = 4


class Cause(IntEnum):
    """Why a row ended as it did; the lower-case name is the word on the wire."""

    NONE = 2
    HANDLER_ERROR = 3
    WORKER_LOST = 4
    UNDECODABLE = 5
    REJECTED = 6
    TOO_OLD = 7
    CHECKSUM = 8
    TOO_FAR = 9
    OUTCOME_UNKNOWN = 10
    PROBLEM = 11
    CANCELLED = 12
    EXPIRED = 13

    @property
    def word(self) -> str:
        return self.name.lower()


class Envelope(Struct, omit_defaults=True, gc=False):
    """What travels beside a body, JSON in the `headers` column; immutable and covered by the CRC."""

    operation: str = ""  # full name: contract.operation, or contract.event
    reply_to: str = ""  # full name of the operation that takes the Outcome
    causation_id: str = ""
    correlation_id: str = ""
    trace: str = ""  # traceparent
    tracestate: str = ""
    sender: str = ""
    hops: int = 0
    key: str = ""  # the ordering key as the user gave it, for display
    idempotency_key: str = ""  # of a message that is to be forwarded: the user's, which goes with it
    awaited: bool = False  # of a message that is to be forwarded: somebody wants its outcome
    event_id: str = ""  # of a delivery of an event
    identity: str = ""  # who asked for it over HTTP, as `authenticate` said
    claims: dict[str, Any] = {}
    headers: dict[str, str] = {}


class Reservation(Struct, frozen=True, gc=False):
    """Ask that a message is born running, held by this process: it is handled here and now, and again after a crash."""

    holder: int
    lease_s: float


class Message(Struct, gc=False):
    """What a sender hands to a store. With `event` set it has no queue: the store makes one delivery a subscription."""

    id: bytes  # 16 bytes, uuid7; derived ids are a hash
    queue: str
    body: bytes
    headers: bytes = b"{}"  # an Envelope
    event: str = ""  # full name of an event: fan out to its subscriptions
    kind: Kind = Kind.MESSAGE
    priority: Priority = Priority.NORMAL
    delay_s: float = 0.0
    due_ms: int | None = None  # instead of a delay
    ttl_s: float | None = None
    line: bytes | None = None  # 16 bytes: hash of the ordering key and its scope (core/line.py)
    dedup: bytes | None = None  # 16 bytes: hash of identity, operation and idempotency key
    digest: bytes | None = None  # 16 bytes over the canonical request, only with dedup
    keep_s: int = 3600
    caller: str | None = None
    reserve: Reservation | None = None
    log_s: int = 0  # of an event: how long the log keeps it for who subscribes later; 0: it isn't logged


class Delivery(Struct, gc=False):
    """A claimed row. `ref` belongs to the store; `fence` guards every write that follows."""

    ref: int
    id: bytes
    queue: str
    fence: int
    attempt: int  # the first is 1
    losses: int
    generation: int
    created_ms: int
    headers: bytes
    body: bytes
    line: bytes | None = None
    expires_ms: int | None = None
    kind: Kind = Kind.MESSAGE
    keep_s: int = 3600
    cancel_asked: bool = False
    started_ms: int | None = None  # when it was first claimed; None: not told


class Answer(Struct, gc=False):
    """An outcome, as a call answers it over HTTP and as a ticket's result gives it: the same bytes."""

    status: int  # an HTTP status
    body: bytes = b""
    content_type: str = "application/json"
    retry_after_s: float | None = None
    processed: bool = True  # False: certainly no handler ran


class Failure(Struct, gc=False, omit_defaults=True):
    """One failed attempt as a dead letter shows it."""

    type: str
    message: str  # at most 2 KiB
    traceback: str = ""  # at most 16 KiB
    attempt: int = 0
    at_ms: int = 0
    host: str = ""
    version: str = ""
    store_id: str = ""  # of a forward: which store may have taken it
    reached_ms: int = 0  # of a forward: when one may have taken it for the first time


Statement = tuple[str, Sequence[object] | Mapping[str, object]]
"""SQL of a handler's own, with its parameters, by position or by name."""


class Settlement(Struct, gc=False):
    """How a delivery ended. One commit does all of it, guarded by the fence, or none."""

    delivery: Delivery
    # SUCCEEDED, FAILED, DEAD, CANCELLED; SCHEDULED (retry after delay_s); READY (released); FORWARDED: another store
    # has it, `answer` is what that one said, and an order (`Conclude`) brings the end
    to: State
    answer: Answer | None = None
    staged: tuple[Message, ...] | list[Message] = ()
    delay_s: float = 0.0
    charge: bool = True  # False: the attempt is not counted
    cause: Cause = Cause.NONE
    failure: Failure | None = None
    remove: bool = False  # a reservation that failed: nothing of it stays
    feeds: Literal["", "good", "bad", "downstream"] = ""  # how it counts for the intake breaker; a success is good
    sql: Sequence[Statement] = ()  # what the handler deferred: run in this commit, by stores with the capability `sql`


class Settled(Struct, gc=False):
    """A settlement that is committed already, in a handler's own transaction. `done`: False where its fence was lost,
    and nothing was committed."""

    settlement: Settlement
    done: bool


class Ended(Struct, gc=False):
    """A row that came to an end; `core/farewell.py` makes of it the messages that tell others."""

    id: bytes
    queue: str
    state: State
    cause: Cause
    attempts: int
    generation: int
    headers: bytes
    body: bytes
    answer: Answer | None
    failures: list[Failure]  # the last of its attempts, the oldest first
    failure_queue: str  # of the service that owns the queue; empty: nobody listens


class Progress(Struct, gc=False):
    """The latest word of a running handler: a fraction of 0 to 1 (or None) and a note."""

    share: float | None
    note: str
    at_ms: int = 0


class Record(Struct, kw_only=True):
    """Everything a store knows of one row, as tickets, the command line and operators see it."""

    ref: int
    id: bytes
    queue: str
    kind: Kind
    state: State
    priority: Priority
    cause: Cause
    attempts: int
    losses: int
    generation: int
    fence: int
    created_ms: int
    due_ms: int
    started_ms: int | None
    settled_ms: int | None
    expires_ms: int | None
    cancel_asked: bool
    keep_s: int
    headers: bytes = b"{}"
    body: bytes = b""
    answer: Answer | None = None
    progress: Progress | None = None
    failures: list[Failure] = []


Json = Raw | dict[str, Any]
