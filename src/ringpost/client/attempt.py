"""One attempt of a call over HTTP: the request while it is under way, and what is left of it without a reply."""

import asyncio
from typing import TYPE_CHECKING

from msgspec import Struct

from ringpost.client.outgoing import Outgoing
from ringpost.client.sweep import NEVER_S
from ringpost.client.target import Target
from ringpost.contract.errors import TransportError
from ringpost.core.attempt import End

if TYPE_CHECKING:  # the connection loads the HTTP parser
    from ringpost.client.connection import Connection, Received
    from ringpost.client.guard import Guard
    from ringpost.client.hedge import Hedge


class Attempt(Struct, gc=False):
    """A request that is under way. From `due_s` on it is late, which its connection tells it.

    `overdue`: its breaker has counted it as slow already. `hedge`: the second request beside it.
    """

    guard: "Guard"
    target: Target
    out: Outgoing
    began_s: float
    until_s: float
    epoch: int
    due_s: float = NEVER_S
    probe: bool = False
    overdue: bool = False
    hedge: "Hedge | None" = None

    def late(self, now_s: float, connection: "Connection", answer: "asyncio.Future[Received]") -> float:
        """Take note that there is no answer yet; gives when to be told again."""
        return self.guard.late(self, now_s, connection, answer)


class Missed(Struct):
    """An attempt that brought no reply and no Problem: how it ended, by an answer or an error.

    `unprocessed`: certainly no handler ran. `refused`: our breaker didn't let it out. `code`: of the answer's problem.
    """

    end: End
    unprocessed: bool
    retry_after_s: float | None = None
    received: "Received | None" = None
    error: TransportError | None = None
    refused: bool = False
    code: str = ""
    guard: "Guard | None" = None  # whose budget pays for another attempt
