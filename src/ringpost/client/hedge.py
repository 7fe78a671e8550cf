"""A second request beside a first one that is late: the answer that comes first is taken, and the other request ends.

Until the first one is late it costs nothing but this object: the connection calls `begin` when the time has come.
"""

import asyncio
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from ringpost.client.outgoing import Posted
from ringpost.client.target import Target

if TYPE_CHECKING:  # it loads the HTTP parser
    from ringpost.client.connection import Connection, Received

Second = Callable[[Target, Posted], Coroutine[Any, Any, "Received | None"]]


class Hedge(Struct):
    """Of one request to a first target. `second` makes the other one; it gives None where that brought nothing better.

    `task`: the other one, once it has begun.
    """

    due_s: float
    second: Second
    first: Target
    out: Posted
    won: bool = False
    task: "asyncio.Task[None] | None" = None

    def begin(self, connection: "Connection", answer: "asyncio.Future[Received]") -> None:
        """The first request is late: send the second, unless the answer has come meanwhile."""
        if not answer.done():
            self.task = asyncio.get_running_loop().create_task(self._run(connection, answer))

    async def end(self) -> None:
        """The first request has ended, one way or the other: so does the second."""
        task = self.task
        if task is not None and not task.done():
            task.cancel()
            await asyncio.wait((task,))

    async def _run(self, connection: "Connection", answer: "asyncio.Future[Received]") -> None:
        received = await self.second(self.first, self.out)
        if received is not None and not answer.done():
            self.won = True
            connection.abandon(answer)  # drained aside: what comes there is nobody's
            answer.set_result(received)
