"""What a process hosts: the services, their pipeline and worker, the store and the way to other processes.

It is the Local of client and door: calls and messages for a handler that is here end in it.
"""

import asyncio
import logging
import os
import secrets
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from functools import partial
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from ringpost.client.asking import Asking
from ringpost.client.effects import Effects
from ringpost.client.router import Router
from ringpost.client.world import REAL, World
from ringpost.contract.contract import events_of
from ringpost.contract.errors import StoreError, UsageError
from ringpost.contract.operation import Event, Operation
from ringpost.contract.vocabulary import Provider
from ringpost.core.call import Accepted, Call, Entrance
from ringpost.core.maintenance import Window
from ringpost.core.message import Answer
from ringpost.service import verdict
from ringpost.service.acceptance import Acceptance
from ringpost.service.admits import Admits
from ringpost.service.assembly import Assembly, assembled
from ringpost.service.context import Means
from ringpost.service.dry_run import DryRun
from ringpost.service.handler import Handler
from ringpost.service.inject import Resources
from ringpost.service.lender import Lender
from ringpost.service.maintenance import Maintenance
from ringpost.service.pipeline import Pipeline
from ringpost.service.provide import name_of
from ringpost.service.register import Command, Door, Register
from ringpost.service.schedule import wall_ms
from ringpost.service.service import Service
from ringpost.service.threads import Threads
from ringpost.service.worker import Worker, Working
from ringpost.settings import Settings
from ringpost.store.port import Joining, Store

_LOG = logging.getLogger("ringpost.service")
_RETRY_S = 1.0
_GRACE_S = 20.0
_LAST_S = 2.0


class Health(Struct, frozen=True):
    """How a process is. `reasons`: why new requests shall go elsewhere; empty when it is ready."""

    ready: bool
    reasons: tuple[str, ...]
    calls: int
    working: Working | None
    closed: Mapping[str, Window] = {}  # services that are closed for maintenance


class Host:
    """Run services in this event loop: `start`, then `call` and `accept`, then `stop`.

    The store is open before and closed after, by whoever opened it. `overrides` are providers that take the place of
    those that provide the same type. `give_up` is called with the reason when the process should end and be restarted.
    `dry`: it only rehearses; it notes nothing in the store, claims nothing and tends nothing. Raises UsageError for
    services that can't run.
    """

    def __init__(
        self,
        services: Sequence[Service],
        store: Store | None,
        settings: Settings,
        *,
        overrides: Sequence[Provider] = (),
        give_up: Callable[[str], None] | None = None,
        world: World = REAL,
        dry: DryRun | None = None,
    ) -> None:
        self._assembly: Assembly = assembled(services, overrides)
        self.admits: Mapping[str, Admits] = self._assembly.admits(settings)  # by queue
        self._store = store
        self._world = world
        self._dry = dry
        self._effects = Effects(store)
        self._settings = _without_own(settings, self._assembly)
        self._give_up = give_up
        self._state = "starting"
        self._broken = ""
        self.forwards: tuple[str, ...] = ()  # forward queues that this process takes from
        self.command = Command(secrets.token_hex(8), os.getpid())
        self._started: _Started | None = None
        self._router: Router | None = None

    # --- what is here

    @property
    def instance(self) -> str:
        """The name under which callers find the door."""
        return self.command.instance

    @property
    def store(self) -> Store | None:
        """The store of this process, if it has one."""
        return self._store

    @property
    def settings(self) -> Settings:
        """The settings as they hold here: a contract that is served here has no address, whatever others are told."""
        return self._settings

    @property
    def router(self) -> Router:
        """The way of calls from here."""
        return self._running().router

    @property
    def pipeline(self) -> Pipeline:
        """What runs the handlers here."""
        return self._running().pipeline

    @property
    def handlers(self) -> Mapping[str, Handler]:
        """The handlers by queue."""
        return self._assembly.handlers

    @property
    def operations(self) -> Mapping[str, Operation[Any, Any]]:
        """The operations that are implemented here, by full name."""
        return {
            handler.name: handler.operation
            for handler in self._assembly.handlers.values()
            if handler.operation is not None
        }

    @property
    def events(self) -> Mapping[str, Event[Any]]:
        """The events that are known here, by full name: of the contracts, and those that are listened to."""
        known = {
            event.full_name: event
            for service in self._assembly.services
            for contract in service.contracts
            for event in events_of(contract).values()
        }
        for handler in self._assembly.handlers.values():
            if handler.event is not None:
                known[handler.name] = handler.event
        return known

    def health(self) -> Health:
        """Say how this process is, and whether new requests shall come here."""
        started = self._started
        working = None if started is None or started.worker is None else started.worker.working()
        reasons: list[str] = []
        if self._state != "serving":
            reasons.append(self._state)
        if self._broken:
            reasons.append(self._broken)
        if working is not None and working.stalled:
            reasons.append("messages wait, slots are free, and none is taken")
        if started is not None and started.threads_lost():
            reasons.append("half of the threads of a handler are lost")
        calls = 0 if started is None else started.pipeline.running
        maintenance = None if started is None else started.maintenance
        closed = {} if maintenance is None else maintenance.windows
        return Health(not reasons, tuple(reasons), calls, working, closed)

    # --- Local

    def serves(self, operation: str) -> bool:
        """Say whether a handler for the operation (full name) is here."""
        handler = self._assembly.handlers.get(operation)
        return handler is not None and handler.operation is not None

    def call(self, call: Call) -> Coroutine[Any, Any, Answer]:
        """Run the pipeline; what comes of it gives the answer. Never raises but for cancellation, which ends the
        handler."""
        handler = self._assembly.handlers.get(call.operation)
        if handler is None or handler.operation is None:
            return self._not_served(call)
        pipeline = self._running().pipeline
        if call.after is not None:
            return self._after(call, handler, pipeline)
        return pipeline.handle_call(handler, call)

    async def _not_served(self, call: Call) -> Answer:
        return verdict.refusal("not_found", f"{call.operation} isn't served here.", call.operation)

    async def _after(self, call: Call, handler: Handler, pipeline: Pipeline) -> Answer:
        """Wait before the call takes a slot: the messages it waits for may need one."""
        refused = await self._not_after(call)
        return await pipeline.handle_call(handler, call) if refused is None else refused

    async def _not_after(self, call: Call) -> Answer | None:
        """Wait for the effects that a call is to come after; an answer where they aren't there in time."""
        assert call.after is not None
        try:
            return await self._effects.refusal(call.after, call.deadline_s, call.operation)
        except StoreError as error:
            _LOG.error("a call to %s could not wait for what it comes after", call.operation, exc_info=error)
            return verdict.refusal(
                "unavailable", "The store can't be read now.", call.operation, retry_after_s=_RETRY_S
            )

    def entrance(self, operation: str) -> Entrance:
        """Give what says whether there is room for a call."""
        return self._running().pipeline.slots(self._assembly.handlers[operation])

    def turned_away(self, operation: str) -> Answer:
        """Give the answer to a call for which there is no room."""
        return self._running().pipeline.turned_away(self._assembly.handlers[operation])

    async def accept(self, call: Call) -> Accepted | Answer:
        """Write the request first, born running here, and start it; an Answer where it was refused.

        What isn't served here is put for who serves it. Once written it is handled, whatever becomes of the caller.
        """
        return await self._running().acceptance.accept(self._assembly.handlers.get(call.operation), call)

    # --- life

    async def start(self, work: bool, *, thread: bool = True, clock_ms: Callable[[], int] = wall_ms) -> None:
        """Make the resources, write the notes, and serve; with `work` messages are claimed as well.

        `thread=False` renews leases on the loop, for virtual time; `clock_ms` tells schedules the time. Raises what a
        resource raises, StoreError.
        """
        if work and self._store is None:
            self._refuse_without_store()
        runs_sql = self._store is not None and "sql" in self._store.facts.capabilities
        if not runs_sql:
            self._refuse_without_sql()
        self._refuse_sessions()
        loop = asyncio.get_running_loop()
        assembly = self._assembly
        router = Router(self._settings, self, self._store, self._world)
        asking = Asking(router, self._store, self, dict)
        begin = partial(self._store.begin, alone=True) if self._store and runs_sql else None
        resources = Resources(assembly.sources.values(), begin)
        await resources.open()
        try:
            await self._check_sessions(resources)
            threads = Threads(assembly.thread_count(), self._lost_threads)
            pipeline = Pipeline(Means(self._settings, self._store, router, asking, loop, {}, self._world, self._dry))
            assembly.bind(pipeline, resources, threads, loop, self.admits)
            started = _Started(assembly, router, resources, threads, pipeline, self._store, self._settings)
            if self._store is not None and self._dry is None:
                await started.attach(
                    self._store, work=work, thread=thread, clock_ms=clock_ms, give_up=self._give_up, world=self._world
                )
        except BaseException:
            await resources.close()
            raise
        self._started = started
        self._state = "serving"

    async def announce(self, url: str) -> None:
        """Note in the store that calls reach this process at the URL, as long as it lives; empty: it has no door."""
        register = self._running().register
        if register is not None:
            queues = (*self._assembly.handlers, *self.forwards)
            door = Door(self.command, url, tuple(self.operations), queues)
            await register.announce(door, self._settings.lease_s)

    def drain(self) -> None:
        """Be not ready from now on, claim no more messages, and send callers elsewhere; who comes is still served."""
        self._state = "stopping"
        if self._started is not None:
            self._started.drain()

    async def stop(self, grace_s: float = _GRACE_S) -> None:
        """Claim no more, let what runs end for `grace_s` seconds, then cancel and release it; end the resources."""
        self.drain()
        started, self._started = self._started, None
        if started is not None:
            await started.stop(grace_s)

    def _running(self) -> "_Started":
        if self._started is None:
            raise UsageError("This host isn't running: start it first.")
        return self._started

    def break_down(self, reason: str) -> None:
        """Be not ready from now on, and end the process if it can be: it won't get well by itself."""
        self._broken = reason
        if self._give_up is not None:
            self._give_up(reason)

    def _lost_threads(self, handlers: str) -> None:
        if self._give_up is not None:
            self._give_up(f"half of the threads of {handlers} are held by handlers that never end")

    def _refuse_without_store(self) -> None:
        needing = [handler.queue for handler in self._assembly.handlers.values() if handler.operation is None]
        if needing:
            raise UsageError(
                f"{needing[0]} needs a store to take its messages from, and this process has none. Set `store` in "
                "ringpost.toml or RINGPOST_STORE, as in sqlite:///ringpost.db."
            )

    def _refuse_without_sql(self) -> None:
        for queue in sorted(self._assembly.transacting):
            handler = self._assembly.handlers[queue]
            store = (
                "this process has no store" if self._store is None else f"the store {self._store.facts.url} has none"
            )
            raise UsageError(
                f"{name_of(handler.function)}, which handles {handler.name}, takes a Transaction, and {store}. Set "
                "`store` in ringpost.toml or RINGPOST_STORE to one with SQL, as sqlite:///ringpost.db."
            )

    def _refuse_sessions(self) -> None:
        """Refuse handlers that take a session where the store can't be in its database."""
        if not isinstance(self._store, Joining):
            for queue, lender in sorted(self._assembly.lenders.items()):
                raise UsageError(self._not_joining(self._assembly.handlers[queue], lender))

    async def _check_sessions(self, resources: Resources) -> None:
        """Have it seen that the sessions which handlers take are on the store's database."""
        assembly = self._assembly
        for service, lender in dict.fromkeys(
            (assembly.handlers[queue].service, lender) for queue, lender in assembly.lenders.items()
        ):
            assert isinstance(self._store, Joining)
            await lender.check(self._store, resources.of(assembly.sources[service]))

    def _not_joining(self, handler: Handler, lender: Lender) -> str:
        taken, url = lender.provides.__name__, "" if self._store is None else self._store.facts.url
        store = f"the store {url} is in no PostgreSQL database" if url else "this process has no store"
        text = (
            f"{name_of(handler.function)}, which handles {handler.name}, takes {taken}, in whose transaction its "
            f"handling is to end, and {store}: one commit can't be over both. "
        )
        if url.startswith("memory:"):
            return (
                f"{text}In a test, give Harness(provides=[…]) a function that returns the {taken} it shall work with, "
                "which then commits by itself; or use `serve` with a store in PostgreSQL."
            )
        return (
            f"{text}Set `store` in ringpost.toml or RINGPOST_STORE to the session's database, as "
            "postgresql://user@host/database, or take a Transaction, whose tables are in the store's."
        )


def _without_own(settings: Settings, assembly: Assembly) -> Settings:
    own = {one.operation.contract_name for one in assembly.handlers.values() if one.operation is not None}
    addresses = {contract: url for contract, url in settings.addresses.items() if contract not in own}
    return settings if len(addresses) == len(settings.addresses) else replace(settings, addresses=addresses)


class _Started:
    """All that is there only while a host runs."""

    def __init__(
        self,
        assembly: Assembly,
        router: Router,
        resources: Resources,
        threads: Threads,
        pipeline: Pipeline,
        store: Store | None,
        settings: Settings,
    ) -> None:
        self._assembly = assembly
        self.router = router
        self._resources = resources
        self._threads = threads
        self.pipeline = pipeline
        self._settings = settings
        self.worker: Worker | None = None
        self.maintenance: Maintenance | None = None
        self._looking: asyncio.Task[None] | None = None
        self.register: Register | None = None
        self.acceptance = Acceptance(store, pipeline, settings)

    async def attach(
        self,
        store: Store,
        *,
        work: bool,
        thread: bool,
        clock_ms: Callable[[], int],
        give_up: Callable[[str], None] | None,
        world: World,
    ) -> None:
        """Write the notes and begin to work."""
        handlers = self._assembly.handlers
        self.register = Register(store, handlers, self._assembly.failure_queues(), clock_ms)
        await self.register.write()
        await self.register.describe_events(
            (event, service.name)
            for service in self._assembly.services
            for contract in service.contracts
            for event in events_of(contract).values()
        )
        self.worker = worker = Worker(
            store,
            self.pipeline,
            handlers.values(),
            lease_s=self._settings.lease_s,
            claiming=work,
            give_up=give_up,
            clock_s=time.monotonic if thread else asyncio.get_running_loop().time,
            clock_ms=clock_ms,
            world=world,
        )
        self.pipeline.reservations.holder = lambda: worker.holder
        self.acceptance.worker = worker
        self.maintenance = maintenance = Maintenance(store, handlers.values(), self.pipeline.slots, clock_ms)
        if work:
            maintenance.slow, maintenance.go_on = worker.slow_down, worker.go_on
        self.pipeline.closed = maintenance.refusal
        await maintenance.look()
        self._looking = asyncio.get_running_loop().create_task(maintenance.run(), name="ringpost-maintenance")
        await worker.start(thread=thread)

    def threads_lost(self) -> bool:
        return any(
            slots.lost * 2 >= slots.total for slots in map(self.pipeline.slots, self._assembly.handlers.values())
        )

    def drain(self) -> None:
        if self.worker is not None:
            self.worker.drain()
        if self.register is not None:
            self.register.leave()

    async def stop(self, grace_s: float) -> None:
        self.acceptance.worker = None
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.wait((self._looking,))
        try:
            await asyncio.gather(self._stop_worker(grace_s), self.pipeline.close(grace_s, _LAST_S))
            if self.register is not None:
                await self.register.withdraw()
            await self.router.close()
        finally:
            self._threads.close()
            await self._resources.close()

    async def _stop_worker(self, grace_s: float) -> None:
        if self.worker is not None:
            await self.worker.stop(grace_s)
