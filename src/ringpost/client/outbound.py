"""Carry what goes out over HTTP to who serves it: which of the targets, how often, and when not at all.

The decisions are in `core/`: whether an attempt may follow another (`call_retry`), what one that ended says of its
target (`attempt`), whether a target may be called (`breaker`, `limit`), what it may cost (`budget`), when a second
request is worth it (`hedge`). Here they are carried out.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

from ringpost.client.attempt import Attempt, Missed
from ringpost.client.breaker_notes import BreakerNotes
from ringpost.client.bulkhead import Bulkhead, Places
from ringpost.client.guard import Guard
from ringpost.client.guards import KEPT_MAX
from ringpost.client.instances import Instances
from ringpost.client.outgoing import TICKETS, Outgoing, Posted
from ringpost.client.target import Target, target_of
from ringpost.client.world import REAL, Carrier, World
from ringpost.contract.errors import TransportError, Unavailable
from ringpost.core.attempt import DOWN, NEUTRAL
from ringpost.core.call_retry import Failed, Tries, may_repeat, next_at_s
from ringpost.core.policy import Policy, resolved
from ringpost.core.share import KEPT, places_of
from ringpost.settings import Settings
from ringpost.store.hostclock import boot_id
from ringpost.store.port import Store
from ringpost.wire.problem import PROCESSED

if TYPE_CHECKING:
    from ringpost.client.connection import Received

_WRONG_INSTANCE = 421
_PROCESSED = PROCESSED.encode()


class Outbound:
    """The way out of one event loop. Connections are opened when something goes out for the first time."""

    def __init__(self, settings: Settings, store: Store | None = None, world: World = REAL) -> None:
        self._settings = settings
        self._store = store
        self._world = world
        self._guards = world.guards
        self._loop = asyncio.get_running_loop()
        self._time = self._loop.time
        self._addresses = {contract: target_of(url) for contract, url in settings.addresses.items()}
        self._instances = None if store is None else Instances(store, boot_id())
        self._notes = None if store is None else BreakerNotes(store, world.guards)
        self._transport: Carrier | None = None
        self._kept: OrderedDict[tuple[str, str, str], Guard] = OrderedDict()
        self._count = places_of(settings.policies)
        self._places: WeakValueDictionary[str, Places] = (
            WeakValueDictionary()
        )  # by the origin's URL, as connections are

    async def carry(self, out: Outgoing) -> "Received":
        """Bring it to who serves it, and give what came back.

        Raises Unavailable, Overloaded, DeadlineExceeded, TransportError: then nothing came back.
        """
        result = await self.attempt(out)
        return await self.repeated(out, result) if isinstance(result, Missed) else result

    def attempt(self, out: Outgoing) -> Coroutine[Any, Any, "Received | Missed"]:
        """Make one attempt, wherever it can be made; `repeated` goes on from one that missed. Raises Unavailable where
        nobody is there."""
        target = self._addresses.get(out.contract)
        if target is None:
            return self._at_some(out)
        return self._at(target, target.guards.get(out.name) or self._guard(target, out), out)

    async def repeated(self, out: Outgoing, missed: Missed) -> "Received":
        """Try again as often as may be after a first attempt; raises or gives how the last one ended."""
        policy = self._policy(out)
        attempts = policy.attempts
        if isinstance(out, Posted):
            attempts = out.options.get("attempts", attempts)
        tries = Tries(attempts, out.attempt)
        number = 1
        unprocessed = True  # as long as that is certain of every attempt
        while True:
            unprocessed = unprocessed and missed.unprocessed
            at_s = self._next_at_s(out, missed, number, tries)
            if at_s is None:
                return _ended(out, missed, unprocessed)
            await asyncio.sleep(at_s - self._time())
            number += 1
            out = out.again(number) if isinstance(out, Posted) else out
            try:
                result = await self.attempt(out)
            except Unavailable:  # nobody is left: what the last one said tells more
                return _ended(out, missed, unprocessed)
            if not isinstance(result, Missed):
                return result
            missed = result

    async def target(self, contract: str, full_name: str) -> Target | None:
        """Give where something of a contract is reached over HTTP, if anywhere."""
        target = self._addresses.get(contract)
        if target is None and self._instances is not None:
            return next(iter(await self._instances.serving(full_name)), None)
        return target

    def nobody(self, contract: str, full_name: str) -> Unavailable:
        """Say everything that was tried."""
        if self._store is None:
            stored = "no store to know of one"
        else:
            stored = f"no live instance noted in the store ({self._store.facts.url})"
        error = Unavailable(
            f"Nobody serves {full_name}: no handler for it in this process, no address for {contract!r} in "
            f"`addresses`, and {stored}. Start its service with `ringpost run`, or set RINGPOST_ADDRESSES="
            f"{contract}=https://…",
            processed="no",
        )
        error.operation = full_name
        return error

    async def close(self) -> None:
        """Close every connection; what is outstanding raises Unavailable."""
        if self._notes is not None:
            await self._notes.close()
        if self._transport is not None:
            await self._transport.close()

    # --- attempts

    def _next_at_s(self, out: Outgoing, missed: Missed, number: int, tries: Tries) -> float | None:
        """Give the instant of another attempt, paid for; None: there is none."""
        if not missed.end.again or missed.guard is None:
            return None
        failed = Failed(number, self._time(), missed.unprocessed, missed.retry_after_s)
        if not may_repeat(failed, tries, safe=out.safe):
            return None
        at_s = next_at_s(failed, out.deadline_s, self._world.chance())
        return at_s if at_s is not None and missed.guard.afford() else None

    async def _at_some(self, out: Outgoing) -> "Received | Missed":
        """Try the instances one after the other: one that is gone or going, whose port another service has by now, or
        whose breaker is open, is passed over for the next. Raises Unavailable where nobody is there."""
        instances = self._instances
        refusal: Missed | None = None
        while instances is not None and (targets := await instances.serving(out.name)):
            gone = False
            for target in targets:
                result = await self._at(target, target.guards.get(out.name) or self._guard(target, out), out)
                if not isinstance(result, Missed) or not _elsewhere(result):
                    return result
                if result.refused:
                    refusal = result
                    continue
                if result.received is not None and result.received.status != _WRONG_INSTANCE:
                    refusal = result
                instances.refused(target)
                gone = True
            if not gone:
                break
        if refusal is None:
            raise self.nobody(out.contract, out.name)
        return refusal

    async def _at(self, target: Target, guard: Guard, out: Outgoing) -> "Received | Missed":
        """Make one attempt at one target."""
        now_s = self._time()
        if self._notes is not None and now_s >= self._notes.due_s:
            self._notes.look()
        breaker, bulkhead = guard.breaker, guard.bulkhead
        this = Attempt(guard, target, out, now_s, out.deadline_s, breaker.epoch)
        places = bulkhead.places
        if breaker.passing and bulkhead.taken < bulkhead.limit and bulkhead.taken < places.free:
            bulkhead.taken += 1
            places.free -= 1
        elif (missed := await self._admitted(this)) is not None:
            return missed
        else:
            out = this.out
        if out.timed:
            this.due_s = this.began_s + guard.patience_s
        try:
            received = await (self._transport or self.transport()).exchange(
                target.origin, out.written(target, this.began_s), this.until_s, out.streams, this
            )
        except TransportError as error:
            return guard.failed(this, self._time(), error)
        except BaseException:
            guard.left(this, self._time())
            raise
        finally:
            if this.hedge is not None:
                await this.hedge.end()
        if this.hedge is not None and this.hedge.won:
            guard.left(this, self._time())
        elif 200 <= received.status < 300:
            guard.good(this, self._time())
        elif (missed := guard.answered(this, self._time(), received)) is not None:
            return missed
        return received

    async def _admitted(self, this: Attempt) -> Missed | None:
        """Let an attempt out where it doesn't go by itself: as the probe, or when there is a place for it."""
        guard, breaker = this.guard, this.guard.breaker
        if not breaker.passing:
            if not guard.may_probe(this):
                return guard.refusal(this.began_s)
            guard.bulkhead.take()
            return None
        if guard.bulkhead.may_take():  # of the places that are kept
            guard.bulkhead.take()
            return None
        try:
            placed = await guard.bulkhead.turn(this.until_s)
        except TransportError as error:
            return Missed(NEUTRAL, True, error=error)
        this.began_s = self._time()
        if placed and breaker.passing:
            this.epoch = breaker.epoch
            return None
        if placed:
            guard.bulkhead.give()
        return guard.refusal(this.began_s)  # it has opened meanwhile

    async def _second(self, first: Target, out: Posted) -> "Received | None":
        """Make the second request beside a late one; None where it brought nothing better."""
        # Another instance where there is one; what is behind an address may be several.
        beside = self._instances.beside(out.name, first) if self._instances is not None and first.instance else None
        target = beside or first
        guard = target.guards.get(out.name) or self._guard(target, out)
        if not guard.may_hedge():
            return None
        result = await self._at(target, guard, out.again(out.attempt + 1))
        return None if isinstance(result, Missed) else result

    # --- what is worked out once

    def transport(self) -> Carrier:
        """Give the transport, made at first use: it loads the HTTP parser."""
        if self._transport is None:
            self._transport = self._world.carrier(self._settings, self._count + KEPT)
        return self._transport

    def _policy(self, out: Outgoing) -> Policy:
        return resolved(self._settings.policies, out.contract, out.name)

    def _guard(self, target: Target, out: Outgoing) -> Guard:
        """Give the guard of an operation at a target. The targets of instances are made anew at each look into the
        store; their guards are kept."""
        key = (target.url, target.instance, out.name)
        guard = self._kept.get(key)
        if guard is None:
            guard = self._kept[key] = self._made(target, out)
            if len(self._kept) > KEPT_MAX:
                self._kept.popitem(last=False)
        self._kept.move_to_end(key)
        target.guards[out.name] = guard
        return guard

    def _made(self, target: Target, out: Outgoing) -> Guard:
        policy = self._policy(out)
        operation = out.operation if isinstance(out, Posted) else None
        timeout_s = self._settings.call_timeout_s
        if operation is not None and operation.timeout_s is not None:
            timeout_s = operation.timeout_s
        watch = self._guards.watch(target, out.name, policy.rule(timeout_s), self._time())
        places = self._places.get(target.origin.url)
        if places is None:
            places = self._places[target.origin.url] = Places(self._count)
        bulkhead = Bulkhead(self._loop, policy.limit, places, f"{out.name} at {target.url}")
        second = self._second if operation is not None and operation.effect == "read" else None
        return Guard(self._guards, watch, policy, bulkhead, second, relays=out.name == TICKETS)


def _elsewhere(missed: Missed) -> bool:
    """Say whether another instance may be asked in its place, unseen as it is: one that can't take any call now, not
    one that has too much to do."""
    if missed.refused:
        return True
    if missed.received is None:
        return missed.unprocessed and isinstance(missed.error, Unavailable)
    if missed.received.status == _WRONG_INSTANCE:
        return True
    return missed.unprocessed and missed.end is DOWN and missed.code == "unavailable"


def _ended(out: Outgoing, missed: Missed, unprocessed: bool) -> "Received":
    """Raise what came instead of an answer, or give the answer that it was. What is certain of the last attempt alone
    isn't of the call: that no handler ran."""
    error = missed.error
    if error is None:
        received = missed.received
        assert received is not None
        if missed.unprocessed and not unprocessed:
            received.fields = [field for field in received.fields if field[0].lower() != _PROCESSED]
        return received
    if not unprocessed:
        error.processed = "maybe"
    error.operation = out.name
    raise error
