"""A call as the pipeline takes it, wherever it came from, and the protocol by which lower rooms know the pipeline."""

from collections.abc import Coroutine, Mapping
from typing import Any, Protocol

from msgspec import Struct

from ringpost.core.after import After
from ringpost.core.message import Answer, Priority


class Identity(Struct):
    """Say who asks: what a service's `authenticate` returns and `ctx.identity` gives.

    `id` scopes idempotency keys; `claims`, anything that JSON has, is kept with a message.
    """

    id: str
    claims: dict[str, Any] = {}


class Sent(Struct, frozen=True, gc=False):
    """What a sender says of a request that is to become a message.

    `id` is its id at the sender's, and will be here; `age_s` how long ago somebody may have taken it for the first
    time. `ttl_s` counts from now.
    """

    id: bytes | None = None
    ordering_key: str | None = None
    ttl_s: float | None = None
    age_s: float = 0.0
    hops: int = 0
    correlation_id: str = ""
    causation_id: str = ""
    sender: str = ""


UNSAID = Sent()


class Call(Struct):
    """One request for an answer. `deadline_s` is an instant of the running loop's monotonic clock, in seconds."""

    operation: str  # full name: contract.operation
    body: bytes
    deadline_s: float
    headers: Mapping[str, str] = {}
    idempotency_key: str | None = None
    priority: Priority = Priority.NORMAL
    attempt: int = 1
    depth: int = 0
    path: tuple[str, ...] = ()
    trace: str = ""
    tracestate: str = ""
    identity: Identity | None = None
    after: After | None = None  # it is handled once the effects of these are there
    since_s: float = 0.0  # when its turn came, on the same clock; 0: just now
    sent: Sent = UNSAID  # only of what is to become a message
    owned: bool = False  # the task that brings it exists for it alone: the handler may run in it, and end it


class Accepted(Struct):
    """A request that became a message: where to look, and what its receipt is worth."""

    id: bytes
    duplicate: bool
    receivers: int
    level: str
    store_id: str = ""  # of the store that keeps it


class Entrance(Protocol):
    """The way in to one operation of this process."""

    def let_in(self, priority: Priority) -> bool:
        """Say whether there is room for a call that is about to be made: a slot, or a place to wait for one."""
        ...


class Local(Protocol):
    """The services of this process, as client and door see them."""

    def serves(self, operation: str) -> bool:
        """Say whether a handler for the operation (full name) is here."""
        ...

    def call(self, call: Call) -> Coroutine[Any, Any, Answer]:
        """Run the pipeline; what comes of it gives the answer. Never raises but for cancellation."""
        ...

    async def accept(self, call: Call) -> Accepted | Answer:
        """Write the request first, born running here, and start it; an Answer where it was refused."""
        ...
