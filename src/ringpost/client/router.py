"""Find who answers a call: a handler in this process, else the address of its contract, else a live instance that the
store knows of. Which of them it was doesn't show: the request is encoded and the reply decoded on every way."""

import asyncio
from collections.abc import Coroutine, Mapping
from typing import Any

from ringpost.client.after import Awaiting, receipts_of
from ringpost.client.attempt import Missed
from ringpost.client.deadline import call_deadline_s
from ringpost.client.effects import Effects
from ringpost.client.options import (
    check_call_options,
    check_operation,
    check_tries,
    checked_headers,
    checked_key,
    priority_of,
)
from ringpost.client.outbound import Outbound
from ringpost.client.outcome import decoded, reply_from, reply_of
from ringpost.client.outgoing import NO_MORE, NO_OPTIONS, Asked, More, posted
from ringpost.client.posting import check_size
from ringpost.client.target import Target
from ringpost.client.world import REAL, World
from ringpost.contract.errors import NotHere
from ringpost.contract.operation import Operation
from ringpost.contract.vocabulary import CallOptions, Reply, Request
from ringpost.core.call import Call, Local
from ringpost.settings import Settings
from ringpost.store.port import Store
from ringpost.wire.http import Response

_NO_HEADERS: dict[str, str] = {}


class Router:
    """The way of calls, for one event loop. Connections are opened when something goes over HTTP for the first time."""

    def __init__(
        self, settings: Settings, local: Local | None = None, store: Store | None = None, world: World = REAL
    ) -> None:
        self._settings = settings
        self._local = local
        self._store = store
        self._loop = asyncio.get_running_loop()
        self._out = Outbound(settings, store, world)

    @property
    def addressed(self) -> Mapping[str, str]:
        """The contracts that have an address."""
        return self._settings.addresses

    def call(
        self,
        operation: Operation[Request, Reply],
        request: object,
        options: CallOptions = NO_OPTIONS,
        parent: Call | None = None,
    ) -> Coroutine[Any, Any, Reply]:
        """Call an operation; what comes of it gives the reply.

        `parent` is the call that is being handled: its deadline bounds this one, its path is carried on. Raises
        UsageError and InvalidRequest before any I/O; the operation's Problems; OperationFailed; Unavailable,
        Overloaded, DeadlineExceeded, whose `processed` says whether it may have taken effect.
        """
        call = self.prepared(operation, request, options, parent)
        if options and "after" in options:
            return self._call_after(operation, call, options)
        return self._answered(operation, call, options)

    async def _call_after(self, operation: Operation[Request, Reply], call: Call, options: CallOptions) -> Reply:
        """Call once the effects of messages are there: the receiver waits for them; where it can't, this side does."""
        awaiting = Awaiting(receipts_of(options.get("after")), Effects(self._store))
        call.after = awaiting.token()
        if call.after is not None:
            try:
                return await self._answered(operation, call, options)
            except NotHere:
                if not awaiting.can_wait():
                    raise
                call.after = None
        await awaiting.wait(operation, call)
        return await self._answered(operation, call, options)

    async def _answered(self, operation: Operation[Request, Reply], call: Call, options: CallOptions) -> Reply:
        local = self._local
        if local is not None and local.serves(call.operation):
            return reply_of(operation, await local.call(call))
        out = posted(operation, call, options)
        received = await self._out.attempt(out)  # not `carry`: a coroutine less in nearly every call
        if isinstance(received, Missed):
            received = await self._out.repeated(out, received)
        if received.status == 200 or received.status == 204:  # its headers say nothing more
            return decoded(operation, received.body, "")
        return reply_from(operation, received.response())

    def prepared(
        self,
        operation: Operation[Any, Any],
        request: object,
        options: CallOptions = NO_OPTIONS,
        parent: Call | None = None,
    ) -> Call:
        """Make the call that a handler of this process takes, or that goes out over HTTP."""
        check_operation(operation, "call")
        headers, key, timeout, word = _NO_HEADERS, None, None, None
        if options:
            check_call_options(options)
            timeout = options.get("timeout")
            word = options.get("priority")
            if "attempts" in options or "hedge" in options:
                check_tries(options, operation)
            if "headers" in options:
                headers = checked_headers(options["headers"])
            if "idempotency_key" in options:
                key = checked_key(options["idempotency_key"], "idempotency_key")
        full_name = operation.full_name
        body = operation.request.encode(request)
        check_size(body, self._settings, full_name)
        parent_s = None if parent is None else parent.deadline_s
        call = Call(
            full_name,
            body,
            call_deadline_s(self._loop.time(), timeout, operation.timeout_s, parent_s, self._settings),
            headers,
            key if key is not None else operation.dedup_key(request),
            priority_of(word, operation.priority),
        )
        if parent is not None:
            if word is None and operation.priority is None:
                call.priority = parent.priority  # what hangs on it must not be shed before it
            call.depth = parent.depth + 1
            call.path = (*parent.path, parent.operation)
            call.trace, call.tracestate = parent.trace, parent.tracestate
            call.attempt = parent.attempt  # whoever tries again above does it for what is below as well
        return call

    async def post(self, operation: Operation[Any, Any], call: Call, more: More = NO_MORE) -> Response:
        """Send the call over HTTP to who serves it, with more headers, and give the answer."""
        return (await self._out.carry(posted(operation, call, NO_OPTIONS, more))).response()

    async def ask(self, asked: Asked) -> Response:
        """Ask the door of a contract for something else than an operation, and give the answer."""
        return (await self._out.carry(asked)).response()

    async def target(self, operation_or_event: Any) -> Target | None:
        """Give where a contract is reached over HTTP, if anywhere."""
        return await self._out.target(operation_or_event.contract_name, operation_or_event.full_name)

    async def close(self) -> None:
        """Close every connection; what is outstanding raises Unavailable."""
        await self._out.close()
