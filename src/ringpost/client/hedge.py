"""A second request beside a first one that is late: the answer that comes first is taken, the other request ends."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from ringpost.client.outgoing import Posted
from ringpost.client.target import Target

if TYPE_CHECKING:  # it loads the HTTP parser
    from ringpost.client.connection import Connection, Received

Second = Callable[[Target, Posted], Coroutine[Any, Any, "Received | None"]]
"""Make the second request of one to a first target; None where that brought nothing better."""


class Hedge(Struct):
    """The second request, and whether its answer was the first to come."""

    won: bool = False
    task: "asyncio.Task[None] | None" = None

    def begin(
        self,
        second: "Coroutine[Any, Any, Received | None]",
        connection: "Connection",
        answer: "asyncio.Future[Received]",
    ) -> None:
        """Send it, while the first one goes on by its connection."""
        self.task = asyncio.get_running_loop().create_task(self._run(second, connection, answer))

    async def end(self) -> None:
        """The first request has ended, one way or the other: so does the second."""
        task = self.task
        if task is not None and not task.done():
            task.cancel()
            await asyncio.wait((task,))

    async def _run(
        self,
        second: "Coroutine[Any, Any, Received | None]",
        connection: "Connection",
        answer: "asyncio.Future[Received]",
    ) -> None:
        received = await second
        if received is not None and not answer.done():
            self.won = True
            connection.abandon(answer)  # drained aside: what comes there is nobody's
            answer.set_result(received)
