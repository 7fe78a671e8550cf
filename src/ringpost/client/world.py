"""What a process takes from outside and decides by: chance, the time of day, what it has learned of the targets that it
calls, and the way to them. Simulations give one of their own, in which nothing is left to chance."""

import random
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol

from msgspec import Struct

from ringpost.client.guards import PROCESS, Guards
from ringpost.client.target import Origin
from ringpost.core.share import KEPT, places_of
from ringpost.settings import Settings
from ringpost.store.hostclock import wall_ms
from ringpost.wire.http import Response

if TYPE_CHECKING:  # it loads the HTTP parser
    from ringpost.client.connection import Exchange, Received

CONNECTIONS_PER_ORIGIN = places_of({}) + KEPT  # what operations share, where no policy says more


class Carrier(Protocol):
    """What brings requests to other processes and their answers back: `transport.Transport`, which says more."""

    async def exchange(
        self, origin: Origin, data: bytes, deadline_s: float, streams: bool = False, exchange: "Exchange | None" = None
    ) -> "Received": ...

    async def request(
        self,
        origin: Origin,
        method: str,
        path: str,
        headers: Sequence[tuple[str, str]] = (),
        body: bytes = b"",
        *,
        deadline_s: float,
        streams: bool = False,
    ) -> Response: ...

    async def close(self) -> None: ...


def over_http(settings: Settings, connections_per_origin: int) -> Carrier:
    """Make what goes over HTTP, for the running event loop."""
    # The parser is a driver: only who goes over HTTP loads it.
    from ringpost.client.transport import Transport

    return Transport(settings, connections_per_origin=connections_per_origin)


class World(Struct, frozen=True):
    """`chance` gives numbers from 0 to 1, `clock_s` seconds of a monotonic clock, `wall_ms` Unix milliseconds, and
    `carrier` makes the way out of an event loop.

    Ids and names of processes aren't made with it: nothing is decided by them.
    """

    chance: Callable[[], float] = random.random
    clock_s: Callable[[], float] = time.monotonic
    wall_ms: Callable[[], int] = wall_ms
    guards: Guards = PROCESS
    carrier: Callable[[Settings, int], Carrier] = over_http


REAL = World()
