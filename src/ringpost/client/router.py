"""Find who answers a call: a handler in this process, else the address of its contract, else a live instance that the
store knows of. Which of them it was doesn't show: the request is encoded and the reply decoded on every way."""

import asyncio
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import Struct

from ringpost.client.after import Awaiting, receipts_of
from ringpost.client.deadline import call_deadline_s
from ringpost.client.effects import Effects
from ringpost.client.instances import Instances
from ringpost.client.options import check_call_options, check_operation, checked_headers, checked_key, priority_of
from ringpost.client.outcome import decoded, reply_from, reply_of
from ringpost.client.posting import check_size
from ringpost.client.request import head, written
from ringpost.client.target import Target, target_of
from ringpost.contract.errors import NotHere, Unavailable
from ringpost.contract.operation import Operation
from ringpost.contract.vocabulary import CallOptions, Reply, Request
from ringpost.core.call import Call, Local
from ringpost.core.message import Priority
from ringpost.settings import Settings
from ringpost.store.hostclock import boot_id
from ringpost.store.port import Store
from ringpost.wire.headers import PRIORITY_WORDS, after_text, is_key, path_text, quoted
from ringpost.wire.http import Response
from ringpost.wire.problem import PROCESSED

if TYPE_CHECKING:
    from ringpost.client.connection import Received
    from ringpost.client.transport import Transport

More = tuple[tuple[str, str], ...]

NO_OPTIONS: CallOptions = {}
_NO_MORE: More = ()
_NO_HEADERS: dict[str, str] = {}
_WRONG_INSTANCE = 421
_UNAVAILABLE = 503


class _Problem(Struct):
    """A problem, as far as one refusal is told from another."""

    code: str = ""


_problem = msgspec.json.Decoder(_Problem)


class Router:
    """The way of calls, for one event loop. Connections are opened when something goes over HTTP for the first time."""

    def __init__(self, settings: Settings, local: Local | None = None, store: Store | None = None) -> None:
        self._settings = settings
        self._local = local
        self._store = store
        self._loop = asyncio.get_running_loop()
        self._addresses = {contract: target_of(url) for contract, url in settings.addresses.items()}
        self._instances = None if store is None else Instances(store, boot_id())
        self._transport: Transport | None = None

    async def call(
        self,
        operation: Operation[Request, Reply],
        request: object,
        options: CallOptions = NO_OPTIONS,
        parent: Call | None = None,
    ) -> Reply:
        """Call an operation and give its reply.

        `parent` is the call that is being handled: its deadline bounds this one, its path is carried on. Raises
        UsageError and InvalidRequest before any I/O; the operation's Problems; OperationFailed; Unavailable,
        Overloaded, DeadlineExceeded, whose `processed` says whether it may have taken effect.
        """
        call = self.prepared(operation, request, options, parent)
        if options and "after" in options:
            return await self._call_after(operation, call, options["after"])
        return await self._answered(operation, call)

    async def _call_after(self, operation: Operation[Request, Reply], call: Call, receipts: object) -> Reply:
        """Call once the effects of messages are there: the receiver waits for them; where it can't, this side does."""
        awaiting = Awaiting(receipts_of(receipts), Effects(self._store))
        call.after = awaiting.token()
        if call.after is not None:
            try:
                return await self._answered(operation, call)
            except NotHere:
                if not awaiting.can_wait():
                    raise
                call.after = None
        await awaiting.wait(operation, call)
        return await self._answered(operation, call)

    async def _answered(self, operation: Operation[Request, Reply], call: Call) -> Reply:
        local = self._local
        if local is not None and local.serves(call.operation):
            return reply_of(operation, await local.call(call))
        received, _ = await self._exchange(operation, call, _NO_MORE)
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
            call.depth = parent.depth + 1
            call.path = (*parent.path, parent.operation)
            call.trace, call.tracestate = parent.trace, parent.tracestate
        return call

    async def post(self, operation: Operation[Any, Any], call: Call, more: More = _NO_MORE) -> tuple[Response, Target]:
        """Send the call over HTTP to who serves it, with more headers; give the answer and who gave it."""
        received, target = await self._exchange(operation, call, more)
        return received.response(), target

    async def _exchange(self, operation: Operation[Any, Any], call: Call, more: More) -> "tuple[Received, Target]":
        transport = self._transport or self.transport()
        target = self._addresses.get(operation.contract_name)
        if target is not None:
            data = self._written(operation, call, target, more)
            return await transport.exchange(target.origin, data, call.deadline_s), target
        instances = self._instances
        if instances is not None:
            # One that is gone or going, or has another service at its port by now, is passed over for the next.
            refusal: tuple[Received, Target] | None = None
            while targets := await instances.serving(call.operation):
                for target in targets:
                    data = self._written(operation, call, target, more)
                    try:
                        received = await transport.exchange(target.origin, data, call.deadline_s)
                    except Unavailable as error:
                        if error.processed != "no":
                            raise
                    else:
                        if received.status == _UNAVAILABLE and _is_going(received):
                            refusal = received, target
                        elif received.status != _WRONG_INSTANCE:
                            return received, target
                    instances.refused(target)
            if refusal is not None:
                return refusal
        raise self.nobody(operation)

    def _written(self, operation: Operation[Any, Any], call: Call, target: Target, more: More) -> bytes:
        """Give the request as it goes out. What is the same for every call of an operation is written once."""
        begin = target.heads.get(call.operation)
        if begin is None:
            begin = target.heads[call.operation] = self._begin(operation, target)
        if more or call.headers or call.depth or call.trace or call.idempotency_key is not None or _is_special(call):
            begin += written("", 0, [*more, *_headers_of(call)])
        remaining_ms = max(1, int((call.deadline_s - self._loop.time()) * 1000))
        body = call.body
        return b"%brequest-timeout: %dms\r\ncontent-length: %d\r\n\r\n%b" % (begin, remaining_ms, len(body), body)

    async def target(self, operation_or_event: Any) -> Target | None:
        """Give where a contract is reached over HTTP, if anywhere."""
        target = self._addresses.get(operation_or_event.contract_name)
        if target is None and self._instances is not None:
            return next(iter(await self._instances.serving(operation_or_event.full_name)), None)
        return target

    def nobody(self, operation: Operation[Any, Any]) -> Unavailable:
        """Say everything that was tried."""
        contract = operation.contract_name
        if self._store is None:
            stored = "no store to know of one"
        else:
            stored = f"no live instance noted in the store ({self._store.facts.url})"
        return Unavailable(
            f"Nobody serves {operation.full_name}: no handler for it in this process, no address for {contract!r} in "
            f"`addresses`, and {stored}. Start its service with `ringpost run`, or set RINGPOST_ADDRESSES="
            f"{contract}=https://…",
            processed="no",
        )

    def transport(self) -> "Transport":
        """Give the transport, made at first use: it loads the HTTP parser."""
        if self._transport is None:
            # The parser is a driver: only who goes over HTTP loads it.
            from ringpost.client.transport import Transport

            self._transport = Transport(self._settings)
        return self._transport

    def _begin(self, operation: Operation[Any, Any], target: Target) -> bytes:
        path = f"{target.prefix}/{operation.contract_name}/{operation.name}"
        headers = [("content-type", "application/json")]
        if target.instance:
            headers.append(("ringpost-instance", target.instance))
        return head("POST", path, target.origin, headers)

    async def close(self) -> None:
        """Close every connection; what is outstanding raises Unavailable."""
        if self._transport is not None:
            await self._transport.close()


def _is_going(received: "Received") -> bool:
    """Say whether a process refused a call unseen as it can't take any now; not: as it has too much to do."""
    if dict(received.response().headers).get(PROCESSED) != "no":
        return False
    try:
        return _problem.decode(received.body).code == "unavailable"
    except msgspec.MsgspecError:
        return False


def _is_special(call: Call) -> bool:
    return call.priority is not Priority.NORMAL or call.attempt != 1 or call.after is not None


def _headers_of(call: Call) -> list[tuple[str, str]]:
    """Give the headers that say what is special about a call."""
    headers = list(call.headers.items())
    if call.idempotency_key is not None and is_key(call.idempotency_key):  # else the receiver makes it of the request
        headers.append(("idempotency-key", quoted(call.idempotency_key)))
    if call.priority is not Priority.NORMAL:
        headers.append(("ringpost-priority", PRIORITY_WORDS[call.priority]))
    if call.depth:
        headers.append(("ringpost-depth", str(call.depth)))
        headers.append(("ringpost-path", path_text(call.path)))
    if call.attempt != 1:
        headers.append(("ringpost-attempt", str(call.attempt)))
    if call.after is not None:
        headers.append(("ringpost-after", after_text(call.after)))
    if call.trace:
        headers.append(("traceparent", call.trace))
        if call.tracestate:
            headers.append(("tracestate", call.tracestate))
    return headers
