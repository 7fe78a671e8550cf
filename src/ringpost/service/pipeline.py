"""The one pipeline: decode → validate → context → middleware → handler → encode → outcome, for calls and messages.

Only the two ends differ. A call takes a slot or is refused, runs until its caller's deadline, and commits what it
staged before the answer goes out; without key and without staging it never touches the store. A message becomes a
Settlement, which the worker commits together with what was staged.
"""

import asyncio
import contextlib
import logging
from asyncio import CancelledError
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from typing import Any, TypeVar, cast

from ringpost.client.sweep import NEVER_S, Earliest
from ringpost.contract.errors import DeadlineExceeded, InvalidRequest, StoreError, UsageError
from ringpost.contract.problem import Problem
from ringpost.core import ids
from ringpost.core.call import Call, Identity
from ringpost.core.handling import handling
from ringpost.core.message import Answer, Cause, Delivery, Envelope, Message, Settled, Settlement, State
from ringpost.core.outcome import DEPTH_MAX, Disposition, Ending, Stopped, declared_answer, invalid_answer, loop_answer
from ringpost.service import verdict
from ringpost.service.context import HOPS_MAX, Context, Means
from ringpost.service.handler import Handler
from ringpost.service.inject import Invoke
from ringpost.service.provide import name_of
from ringpost.service.reservation import Reservations
from ringpost.service.slots import Slots
from ringpost.service.transaction import HandlingTransaction
from ringpost.store.logged import log_error

Authenticate = Callable[[Mapping[str, str]], Awaitable[Identity | None]]
Middleware = Callable[[Context, Callable[[], Awaitable[object]]], Awaitable[object]]

DEPTH_NOTED = 3
CHAINS_MAX = 1_000
_BUSY_S = 1.0
_LOOK_S = 0.1
_LOG = logging.getLogger("ringpost.service")
_NO_CONTENT = Answer(204)
_SUCCEEDED = Disposition(State.SUCCEEDED, charge=True)
_REFUSED = Disposition(State.FAILED, Cause.PROBLEM, charge=True, feeds="good")
_T = TypeVar("_T")


class Bound:
    """A handler as this process runs it: everything that can be worked out before the first request is."""

    __slots__ = (
        "authenticate",
        "decode",
        "encode",
        "handler",
        "invoke",
        "keyed",
        "max_run_s",
        "raises",
        "reply_bytes_max",
        "silent",
        "slots",
    )

    def __init__(self, handler: Handler, slots: Slots, invoke: Invoke, authenticate: Authenticate | None) -> None:
        self.handler = handler
        self.slots = slots
        self.invoke = invoke
        self.authenticate = authenticate
        self.decode = handler.request.decode
        self.encode = handler.reply.encode
        self.silent = handler.reply.empty
        self.raises = handler.raises
        self.max_run_s = handler.max_run_s
        self.reply_bytes_max = 0
        self.keyed = handler.operation is not None and handler.operation._dedup_key is not None

    def answer(self, result: object) -> Answer | None:
        """Encode what the handler returned; None where nothing comes back. Raises UsageError for a wrong type."""
        if isinstance(result, Problem):
            if not isinstance(result, self.raises):
                raise UsageError(
                    f"{name_of(self.handler.function)} returned {type(result).__name__}, which isn't in the raises= of "
                    f"{self.handler.name}."
                )
            return declared_answer(result, verdict.contract_of(self.handler))
        body = self.encode(result)
        if self.silent:
            return None
        if len(body) > self.reply_bytes_max:
            raise UsageError(
                f"The reply of {self.handler.name} is {len(body):,} bytes long; at most {self.reply_bytes_max:,} "
                "travel. Reply with a reference to it, or raise reply_bytes_max."
            )
        return Answer(200, body)


class Pipeline:
    """Run handlers. One per Host; it knows which handlings are running and ends them in time."""

    def __init__(self, means: Means) -> None:
        self._means = means
        self._loop = means.loop
        self._time = means.loop.time
        self._bound: dict[str, Bound] = {}
        # By Delivery.ref, of calls without one by numbers below zero. The timer's end looks at all of them.
        self._running: dict[int, Context] = {}
        self._calls = 0
        self._due = Earliest(self._loop, self._end_overdue)
        self._tasks: set[asyncio.Task[Any]] = set()
        self._chains: set[tuple[str, ...]] = set()  # that were noted
        self.reservations = Reservations(means, self.spawn)
        self.closed: Callable[[Handler], Answer | None] = lambda handler: None  # what a closed service answers

    # --- set-up

    def bind(
        self,
        handler: Handler,
        slots: Slots,
        invoke: Invoke,
        *,
        middleware: Sequence[Middleware] = (),
        authenticate: Authenticate | None = None,
    ) -> None:
        """Make a handler known."""
        for one in reversed(middleware):
            invoke = _around(one, invoke)
        bound = Bound(handler, slots, invoke, authenticate)
        bound.reply_bytes_max = self._means.settings.reply_bytes_max
        self._bound[handler.queue] = bound

    def slots(self, handler: Handler) -> Slots:
        """Give the slots of a handler, shared by calls and messages. `handle_call` takes its own; for a message the
        worker takes one before `handle_message` and gives it back after."""
        return self._bound[handler.queue].slots

    # --- calls

    def handle_call(self, handler: Handler, call: Call) -> Coroutine[Any, Any, Answer]:
        """Answer a call, which what is given does. Never raises but for cancellation (the caller has gone away).

        The handler runs in this task if the task is the call's own, else in one made for it: what it does to its task
        and its context variables must not reach who called.
        """
        bound = self._bound[handler.queue]
        if handler.finish:
            return self._until_finished(bound, call)
        return self._answer(bound, call) if call.owned else self._apart(bound, call)

    async def _apart(self, bound: Bound, call: Call) -> Answer:
        return await self._loop.create_task(self._answer(bound, call))

    async def _until_finished(self, bound: Bound, call: Call) -> Answer:
        """Run a handler that goes on when its caller goes away, or has waited long enough."""
        task = self.spawn(self._answer(bound, call))
        try:
            return await self._in_time(task, call.deadline_s)
        except DeadlineExceeded:
            detail = "The time was over; what was asked for goes on."
            return verdict.refusal("deadline_exceeded", detail, bound.handler.name, processed=True)

    async def _answer(self, bound: Bound, call: Call) -> Answer:
        name = bound.handler.name
        now_s = self._time()
        if call.deadline_s <= now_s:
            return _too_late(name)
        if call.depth and (call.depth > DEPTH_MAX or name in call.path):
            return loop_answer((*call.path, name), name, processed=False)
        if call.depth >= DEPTH_NOTED:
            self._note_chain(call)
        slots, since_s = bound.slots, call.since_s or now_s
        if not slots.take():
            refused = await self._queued(bound, call)
            if refused is not None:
                return refused
            since_s += self._time() - now_s  # that it had to wait says nothing of how long it takes
        try:
            if bound.authenticate is not None and call.identity is None:
                refused = await self._identify(bound, call)
                if refused is not None:
                    return refused
                if call.deadline_s <= self._time():
                    return _too_late(name)
            try:
                request = bound.decode(call.body)
                key = call.idempotency_key
                if key is None and bound.keyed:
                    key = self._declared_key(bound, request)
            except InvalidRequest as error:
                return invalid_answer(error, name)
            if key is not None:
                return await self._keyed(bound, call, request, key)
            return await self._plain(bound, call, request, since_s)
        finally:
            slots.give()

    async def _queued(self, bound: Bound, call: Call) -> Answer | None:
        """Wait for a slot; an answer where there is none for it."""
        fate = await bound.slots.enter(call.priority, call.deadline_s)
        if fate == "runs":
            return None
        if fate == "late":
            return _too_late(bound.handler.name)
        return self.turned_away(bound.handler)

    def _note_chain(self, call: Call) -> None:
        """Say of each long chain once that it is there."""
        path = (*call.path, call.operation)
        if path not in self._chains and len(self._chains) < CHAINS_MAX:
            self._chains.add(path)
            _LOG.warning(
                "a chain of calls is %d deep: %s; send where no answer is needed", call.depth, " → ".join(path)
            )

    def turned_away(self, handler: Handler) -> Answer:
        """Say that there is too much to do, and when to come again."""
        slots, name = self._bound[handler.queue].slots, handler.name
        if slots.closed and (closed := self.closed(handler)) is not None:
            return closed
        detail = f"{name} has too much to do in this process: {slots.calls} calls run, {slots.waiting} wait."
        return verdict.refusal("overloaded", detail, name, retry_after_s=slots.retry_after_s())

    def _sample(self, bound: Bound, ctx: Context, error: BaseException | None, since_s: float) -> None:
        """Tell the limiter how long a call took. One that failed may have been short for that; one that was cut off
        says something where it had been slow already."""
        now_s = self._time()
        slots, latency_s = bound.slots, now_s - since_s
        if ctx.cancelled is not None:
            if slots.limiter.slow(latency_s):
                slots.sample(now_s, latency_s, slots.calls, dropped=True)
            else:
                slots.took(latency_s, cut_off=True)  # the limiter has no idea of slow: the queue must have one
        elif error is None or isinstance(error, Problem):
            slots.sample(now_s, latency_s, slots.calls)

    async def _plain(self, bound: Bound, call: Call, request: object, since_s: float) -> Answer:
        """Run a call that no store knows of."""
        ctx = self._context(bound, call, None)
        self._calls -= 1
        try:
            answer, error = await self._run(bound, ctx, request, self._calls)
        except CancelledError as gone:
            self._sample(bound, ctx, gone, since_s)
            raise
        if bound.slots.skipped:
            bound.slots.skipped -= 1
        else:
            self._sample(bound, ctx, error, since_s)
        staged = ctx._end()
        if error is not None:
            self._undo(ctx)
            return self._failed_call(bound, ctx, error)[1]
        if ctx._tx is not None and ctx._tx._used:
            return await self._committed(bound, ctx, self._commit(ctx._tx, None, staged), answer)
        if staged:
            return await self._committed(bound, ctx, self._put(staged), answer)
        return _NO_CONTENT if answer is None else answer

    async def _keyed(self, bound: Bound, call: Call, request: object, key: str) -> Answer:
        """Run a call under a key: the reservation first, the answer with the effect in one commit after."""
        delivery = await self.reservations.make(bound.handler, call, key)
        if isinstance(delivery, Answer):
            return delivery
        ctx = self._context(bound, call, delivery)
        since_s = self._time()  # the store's time isn't the handler's
        try:
            answer, error = await self._run(bound, ctx, request, delivery.ref)
        except BaseException as gone:
            self._sample(bound, ctx, gone, since_s)
            self.reservations.remove(delivery)
            raise
        self._sample(bound, ctx, error, since_s)
        staged = ctx._end()
        if error is None:
            failed = answer is not None and answer.status >= 400
        else:
            self._undo(ctx)
            ending, answer = self._failed_call(bound, ctx, error)
            if ending is not Ending.PROBLEM_RAISED:
                with contextlib.suppress(DeadlineExceeded):
                    await self._in_time(self.reservations.remove(delivery), call.deadline_s)
                return answer
            staged, failed = (), True
        settlement = Settlement(
            delivery,
            State.FAILED if failed else State.SUCCEEDED,
            answer,
            staged,
            cause=Cause.PROBLEM if failed else Cause.NONE,
        )
        if ctx._tx is not None and ctx._tx._used and error is None:
            return await self._committed(bound, ctx, self._commit(ctx._tx, settlement, ()), answer)
        return await self._committed(bound, ctx, self.reservations.settle(settlement), answer)

    def _context(self, bound: Bound, call: Call, delivery: Delivery | None) -> Context:
        ends_s = self._time() + bound.max_run_s
        if not bound.handler.finish and call.deadline_s < ends_s:
            ends_s = call.deadline_s
        task = asyncio.current_task(self._loop)
        assert task is not None
        return Context(self._means, bound.handler, call, delivery, task, ends_s)

    def _failed_call(self, bound: Bound, ctx: Context, error: BaseException) -> tuple[Ending, Answer]:
        """Answer a call whose handler raised."""
        ending, error = verdict.told(bound.handler, error, ctx.cancelled)
        if ending is Ending.FAILED:
            log_error(_LOG, logging.ERROR, error, "the handler of %s failed in a call", bound.handler.name)
        elif ending is Ending.LOOP:
            _LOG.error("a call in the handler of %s was refused: %s", bound.handler.name, error)
        return ending, verdict.failed_answer(bound.handler, ending, error)

    async def _put(self, staged: Sequence[Message]) -> str:
        """Commit what a call staged; gives why not, if not."""
        assert self._means.store is not None
        puts = await self._means.store.put(staged)
        return next((put.refused for put in puts if put.refused), "")

    async def _commit(self, tx: HandlingTransaction, settlement: Settlement | None, staged: Sequence[Message]) -> str:
        """Commit what a call wrote and staged; gives why not, if not. Raises _Undone where its own SQL failed."""
        try:
            done = await tx._commit(settlement, staged)
        except Exception as error:
            if settlement is not None:
                self.reservations.remove(settlement.delivery)  # if it was committed after all, the fence refuses this
            if isinstance(error, StoreError):
                raise
            raise _Undone(error) from error
        return "" if done else "lease_lost"

    def _undo(self, ctx: Context) -> None:
        """Roll back what a handler wrote that has failed."""
        if ctx._tx is not None:
            self.spawn(ctx._tx._rollback())

    async def _committed(
        self, bound: Bound, ctx: Context, commit: Coroutine[Any, Any, str], answer: Answer | None
    ) -> Answer:
        """Wait for the commit and give the answer. Once it is queued it can't be taken back: a caller whose time is
        over meanwhile learns that it may have been done."""
        name = bound.handler.name
        assert ctx._request is not None
        try:
            refused = await self._in_time(self.spawn(commit), ctx._request.deadline_s)
        except DeadlineExceeded:
            detail = "The time was over while the outcome was being committed."
            return verdict.refusal("deadline_exceeded", detail, name, processed=True)
        except _Undone as undone:
            return self._failed_call(bound, ctx, undone.error)[1]
        except Exception as error:  # noqa: BLE001 (a border: whatever a store raises, the caller gets an answer)
            log_error(_LOG, logging.ERROR, error, "what %s did could not be committed", name)
            refused = "failed"
        if refused:
            detail = f"What the handler did could not be committed ({refused})."
            return verdict.refusal("unavailable", detail, name, retry_after_s=_BUSY_S, processed=True)
        return _NO_CONTENT if answer is None else answer

    # --- who asks

    async def _identify(self, bound: Bound, call: Call) -> Answer | None:
        """Ask the service who calls; an answer where it refuses."""
        assert bound.authenticate is not None
        bounded = asyncio.timeout_at(call.deadline_s)
        try:
            async with bounded:
                call.identity = await bound.authenticate(call.headers)
        except Problem as problem:
            return declared_answer(problem, verdict.contract_of(bound.handler))
        except Exception as error:  # noqa: BLE001 (a border: the user's hook)
            if bounded.expired():
                detail = "The time was over before it was known who asks."
                return verdict.refusal("deadline_exceeded", detail, bound.handler.name)
            _LOG.error("authenticate of the service %s failed", bound.handler.service, exc_info=error)
            return verdict.failed_answer(bound.handler, Ending.FAILED, error)
        return None

    def _declared_key(self, bound: Bound, request: object) -> str | None:
        operation = bound.handler.operation
        return None if operation is None else operation.dedup_key(request)

    async def admit(self, handler: Handler, call: Call) -> tuple[Any, str | None] | Answer:
        """Check a request that is to become a message: gives it decoded, with its idempotency key, or a refusal."""
        bound = self._bound[handler.queue]
        if bound.authenticate is not None and call.identity is None:
            refused = await self._identify(bound, call)
            if refused is not None:
                return refused
        try:
            request = bound.decode(call.body)
            return request, call.idempotency_key or self._declared_key(bound, request)
        except InvalidRequest as error:
            return invalid_answer(error, handler.name)

    # --- messages

    async def handle_message(
        self, handler: Handler, delivery: Delivery, *, charge: bool = True
    ) -> Settlement | Settled:
        """Handle a message in the current task, which may be used for the next one after it. Never raises but for a
        cancellation of the task that `cancel` didn't cause.

        `charge=False` (the intake breaker is open): a failure is tried again without counting the attempt. What the
        settlement stages includes the letter to reply_to. It is Settled where the handler's Transaction committed it.
        """
        bound = self._bound[handler.queue]
        task = asyncio.current_task(self._loop)
        assert task is not None
        ctx = Context(self._means, handler, None, delivery, task, self._time() + bound.max_run_s)
        try:
            request = bound.decode(delivery.body)
        except InvalidRequest as unfit:
            return self._dead(bound, delivery, Cause.UNDECODABLE, unfit)
        if b'"hops"' in delivery.headers and ctx._read_envelope().hops >= HOPS_MAX:
            return self._dead(bound, delivery, Cause.TOO_FAR, _too_far(ctx._read_envelope()))
        answer, error = await self._run(bound, ctx, request, delivery.ref)
        staged = ctx._end()
        if error is not None:
            self._undo(ctx)
            return self._failed_message(bound, ctx.cancelled, delivery, error, charge)
        settlement = _answered(delivery, answer, staged)
        if ctx._tx is None or not ctx._tx._used:
            return settlement
        return await self._transacted(bound, ctx._tx, settlement, charge)

    async def _transacted(
        self, bound: Bound, tx: HandlingTransaction, settlement: Settlement, charge: bool
    ) -> Settlement | Settled:
        """End a message whose handler wrote: what it only deferred goes with the next turn, else it commits itself.
        From here on nothing cancels it."""
        deferred = tx._only_deferred
        if deferred is not None:
            settlement.sql = deferred
            return settlement
        try:
            return Settled(settlement, await asyncio.shield(self.spawn(tx._commit(settlement))))
        except Exception as error:  # noqa: BLE001 (a border: whatever the database raises is the handler's failure)
            return self._failed_message(bound, None, settlement.delivery, error, charge)

    def undone(self, handler: Handler, delivery: Delivery, error: Exception, *, charge: bool) -> Settlement:
        """Settle a message anew whose deferred SQL failed: as if its handler had raised that."""
        return self._failed_message(self._bound[handler.queue], None, delivery, error, charge)

    def _failed_message(
        self, bound: Bound, stopped: Stopped | None, delivery: Delivery, error: BaseException, charging: bool
    ) -> Settlement:
        """Settle a message whose handler raised."""
        ending, error = verdict.told(bound.handler, error, stopped)
        if ending is Ending.MAX_RUN:
            over = TimeoutError(f"the handler was still running after max_run, {bound.max_run_s:g} s")
            error = over.with_traceback(error.__traceback__)
        settlement = verdict.failed_settlement(
            bound.handler, delivery, ending, error, self._means.world, charging=charging
        )
        if self._means.dry is None:  # else it only would be so
            _log_failed(settlement, error)
        return settlement

    def _dead(self, bound: Bound, delivery: Delivery, cause: Cause, error: BaseException) -> Settlement:
        if self._means.dry is None:
            _LOG.error("%s is dead (%s): %s", _named(delivery), cause.word, error)
        return verdict.dead(delivery, cause, error)

    # --- running and ending

    async def _run(
        self, bound: Bound, ctx: Context, request: object, number: int
    ) -> tuple[Answer | None, BaseException | None]:
        """Run the handler; gives what it answers (None: nothing comes back), or what it raised."""
        token = handling.set(ctx)
        self._running[number] = ctx
        if ctx._ends_s < self._due.covered_s:
            self._due.by(ctx._ends_s)
        try:
            result = await bound.invoke(ctx, request)
            if result is None and bound.silent:
                return None, None
            return bound.answer(result), None
        except CancelledError as error:
            task = ctx._task
            if task.cancelling() > ctx._asked:
                self._undo(ctx)
                raise  # somebody else wants this task ended: the caller has gone away, or the loop closes
            return None, error
        except Exception as error:  # noqa: BLE001 (the border around handlers: all that they raise is an outcome)
            return None, verdict.from_handler_on(error)
        finally:
            del self._running[number]
            handling.reset(token)
            if ctx._asked:
                ctx._task.uncancel()

    def cancel(self, ref: int, reason: str) -> bool:
        """End a running message (by `Delivery.ref`) for the reason (`user`, `lease_lost`, `shutdown`): its context
        shows it, an async handler is cancelled at its next await. False: no such message is running here."""
        ctx = self._running.get(ref)
        if ctx is None:
            return False
        ctx._cancel(cast(Stopped, reason))
        return True

    @property
    def running(self) -> int:
        """How many handlings are under way."""
        return len(self._running)

    async def close(self, grace_s: float, last_s: float) -> None:
        """Let calls and commits under way end for `grace_s` seconds; then end the handlers, and after `last_s` all."""
        await self._ended(grace_s)
        for ctx in list(self._running.values()):
            if ctx._request is not None:
                ctx._cancel("shutdown")
        await self._ended(last_s)
        for task in self._tasks:
            task.cancel()
        await self._ended(last_s)
        self._due.cancel()

    async def _ended(self, timeout_s: float) -> None:
        """Wait until no call and nothing beside runs, or the time is over."""
        until_s = self._time() + timeout_s
        while self._time() < until_s:
            calls = {ctx._task for ctx in self._running.values() if ctx._request is not None}
            waiting = (calls | self._tasks) - {asyncio.current_task()}
            if not waiting:
                return
            await asyncio.wait(waiting, timeout=min(until_s - self._time(), _LOOK_S))

    def _end_overdue(self) -> None:
        """End what has run for too long."""
        now_s, next_s = self._time(), NEVER_S
        for ctx in self._running.values():
            if ctx._asked:
                continue
            if ctx._ends_s > now_s:
                next_s = min(next_s, ctx._ends_s)
            else:
                by_caller = ctx._request is not None and not ctx._handler.finish
                ctx._cancel("deadline" if by_caller else "max_run")
        self._due.by(next_s)

    def spawn(self, work: Coroutine[Any, Any, _T]) -> "asyncio.Task[_T]":
        """Run something beside the current task, and keep it alive."""
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _in_time(self, task: "asyncio.Task[_T]", deadline_s: float) -> _T:
        """Wait for a task that goes on whatever becomes of this one. Raises DeadlineExceeded."""
        await asyncio.wait((task,), timeout=max(deadline_s - self._time(), 0.0))
        if not task.done():
            raise DeadlineExceeded("The time was over.", processed="maybe")
        return task.result()


class _Undone(Exception):
    """What a handler wrote could not be committed, because of its own SQL."""

    def __init__(self, error: Exception) -> None:
        super().__init__(error)
        self.error = error


def _answered(delivery: Delivery, answer: Answer | None, staged: list[Message] | tuple[()]) -> Settlement:
    """Settle a message whose handler returned."""
    if answer is not None and answer.status >= 400:
        return verdict.ended(delivery, _REFUSED, answer, staged)
    if b'"reply_to"' in delivery.headers:
        return verdict.ended(delivery, _SUCCEEDED, answer, staged)
    return Settlement(delivery, State.SUCCEEDED, answer, staged)


def _around(middleware: Middleware, inner: Invoke) -> Invoke:
    def invoke(ctx: Any, request: Any) -> Awaitable[object]:
        return middleware(ctx, lambda: inner(ctx, request))

    return invoke


def _too_late(name: str) -> Answer:
    return verdict.refusal("deadline_exceeded", "The time was over before the handler began.", name)


def _too_far(envelope: Envelope) -> Exception:
    return UsageError(f"the message stems from {envelope.hops} others, one sent by the other: they go in a circle")


def _log_failed(settlement: Settlement, error: BaseException) -> None:
    delivery = settlement.delivery
    if settlement.to is State.DEAD:
        log_error(_LOG, logging.ERROR, error, "%s is dead after attempt %d", _named(delivery), delivery.attempt)
    elif settlement.failure is not None:
        again = f"attempt {delivery.attempt} failed, the next in {settlement.delay_s:.1f} s"
        log_error(_LOG, logging.WARNING, error, "%s: %s", _named(delivery), again)


def _named(delivery: Delivery) -> str:
    return f"message {ids.text(delivery.id)} of {delivery.queue}"
