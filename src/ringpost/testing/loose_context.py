"""A Context that belongs to no handling, to call a handler as the function it is. Its verbs stage, nothing leaves."""

import asyncio
from collections.abc import Sequence
from typing import Any, cast

from msgspec import structs

from ringpost.client.router import Router
from ringpost.contract.codec import Codec
from ringpost.contract.operation import Operation
from ringpost.contract.vocabulary import CallOptions, Reply, Request
from ringpost.core.call import Call
from ringpost.core.message import Message
from ringpost.core.retry import Retry
from ringpost.service.context import Context, Means
from ringpost.service.handler import Handler
from ringpost.store.port import Changed, Facts, Order, Put, Store
from ringpost.testing.bridge import Bridge

LASTS_S = 60.0  # for the one who asks how much time remains


def loose_context(means: Means, bridge: Bridge) -> Context:
    """Make a Context for the loop or thread that this is called in; `means` are those of the harness's host."""
    try:
        loop: asyncio.AbstractEventLoop = asyncio.get_running_loop()
        task = asyncio.current_task()
    except RuntimeError:
        loop, task = bridge.loop, None
    here = structs.replace(
        means,
        loop=loop,
        router=cast(Router, _BridgedRouter(means.router, bridge)),
        store=cast(Store, _BridgedStore(means.store, bridge)),
    )
    return Context(here, _HANDLER, None, None, cast("asyncio.Task[Any]", task), loop.time() + LASTS_S)


async def _nothing(request: object) -> None:
    """Handle nothing: whoever has the context calls the handler himself."""


_HANDLER = Handler(
    work="operation",
    service="test",
    name="test.handler",
    queue="test.handler",
    function=_nothing,
    is_async=True,
    request=Codec[Any](None),
    reply=Codec[Any](None),
    retry={Exception: Retry()},
)


class _BridgedRouter:
    """Calls that end in the harness's loop."""

    def __init__(self, router: Router, bridge: Bridge) -> None:
        self._router = router
        self._bridge = bridge

    async def call(
        self,
        operation: Operation[Request, Reply],
        request: object,
        options: CallOptions | None = None,
        parent: Call | None = None,
    ) -> Reply:
        # The time that remains is counted by the clock of this loop; the harness's own bounds the call.
        return await self._bridge.run(lambda: self._router.call(operation, request, options or {}))


class _BridgedStore:
    """As much of the harness's store as a Context uses."""

    def __init__(self, store: Store | None, bridge: Bridge) -> None:
        assert store is not None
        self._store = store
        self._bridge = bridge
        self.facts: Facts = store.facts

    async def put(self, messages: Sequence[Message]) -> list[Put]:
        return await self._bridge.run(lambda: self._store.put(messages))

    async def change(self, orders: Sequence[Order]) -> list[Changed]:
        return await self._bridge.run(lambda: self._store.change(orders))
