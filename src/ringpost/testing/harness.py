"""The harness: services in memory, under virtual time and seeded faults, for tests that take milliseconds.

    async with Harness(accounts, mail) as harness:
        await harness.client.call(Accounts.register, NewUser("a@b.c", "Ann"))
        await harness.settle()
        assert harness.sent(Mail.welcome)

Everything is as in production but the clock, the disk and the network: the same pipeline, worker and store port. It
runs in an event loop of its own, in a thread of its own, so it serves tests with and without one.
"""

import asyncio
import contextvars
import copy
import inspect
import threading
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from types import CodeType
from typing import TYPE_CHECKING, Any, Self, cast

import msgspec
from msgspec import structs

from ringpost.client.client import Client
from ringpost.client.sweep import SWEEP_S, Earliest
from ringpost.contract.contract import Contract, name_of
from ringpost.contract.errors import UsageError
from ringpost.contract.operation import Event, Operation
from ringpost.contract.outcome import DeadLetter
from ringpost.contract.vocabulary import Provider, Reply, Request, Seconds, T, seconds
from ringpost.core import farewell
from ringpost.core.call import Accepted, Call
from ringpost.core.message import Answer, Message
from ringpost.core.retry import Retry
from ringpost.service import upkeep
from ringpost.service.catching_up import CatchingUp
from ringpost.service.context import Context, Means
from ringpost.service.handler import Handler
from ringpost.service.heartbeat import Heartbeat
from ringpost.service.host import Host
from ringpost.service.leases import Leases
from ringpost.service.listener import Listener
from ringpost.service.maintenance import Maintenance
from ringpost.service.register import Register
from ringpost.service.service import Service
from ringpost.service.watchdog import Watchdog
from ringpost.settings import Settings
from ringpost.store.hostclock import wall_ms
from ringpost.store.memory.row import Row
from ringpost.testing.bridge import Bridge, BridgedClient, Portal
from ringpost.testing.faults import Faults
from ringpost.testing.loose_context import loose_context
from ringpost.testing.virtual_time import VirtualLoop
from ringpost.testing.watched_store import WatchedStore

if TYPE_CHECKING:
    from ringpost import blocking

SETTLE_S_MAX = 24 * 3600.0

# What repeats for ever and finds nothing to do unless something happened: time passes by it. What falls due in the
# store, and when a handler has run for too long, are landmarks instead.
_PASSING: frozenset[object] = frozenset({Earliest.rings, Heartbeat._run_on, upkeep._ring})
_PASSING_TASKS: frozenset[CodeType] = frozenset(
    function.__code__
    for function in (
        Leases.run,
        Watchdog.run,
        upkeep.Upkeep.run,
        Listener._wait,
        Register._keep_seen,
        Maintenance.run,
        CatchingUp.run,
    )
)


class Harness:
    """Run services for a test: `async with Harness(accounts, mail) as harness:`. `close()` ends it.

    It starts at first use. `provides` take the place of the services' own providers of the same types: put fakes of
    databases and of other people's APIs there, as the harness doesn't wait for real input and output. `seed` decides
    all that faults leave to chance. What operations it calls and sends to that no given service implements, `fake`.
    """

    def __init__(self, *services: Service, provides: Sequence[Provider] = (), seed: int = 0) -> None:
        self._services = services
        self._provides = tuple(provides)
        self._settings = Settings(http=None, durability="buffered")
        self._fakes: dict[str, tuple[Operation[Any, Any], Callable[[Any], Any]]] = {}
        self._contexts: list[Context] = []
        self._queues: dict[str, str] = {}  # queue → service
        for service in services:
            self._queues.update(dict.fromkeys(service.handlers, service.name))
        self._faults = Faults(self._queues, seed)
        self._begin_ms = wall_ms()
        self._loop = VirtualLoop(passing=_PASSING, passing_tasks=_PASSING_TASKS)
        self._loop.landmark_s = self._landmark_s
        self._loop.reached = self._reached
        self._loop.threads = self._threads_running
        self._store = WatchedStore(self._settings, self._now_ms, self._faults)
        self._host: _Host | None = None
        self._starting: asyncio.Task[None] | None = None
        self._tending: asyncio.Task[None] | None = None
        self._closed = False
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._bridge = Bridge(self._loop, self._begin, self._opened)
        self._inner = Client._attached(self._store, _Late(self), self._settings)
        self.client: Client = BridgedClient(self._inner, self._bridge)

    @property
    def blocking_client(self) -> "blocking.Client":
        """The client for tests without an event loop."""
        from ringpost import blocking

        made: Any = blocking.Client
        return cast("blocking.Client", made.onto(self._inner, Portal(self._bridge)))

    # --- time

    async def settle(self) -> None:
        """Wait until nothing is ready and nothing runs. What is delayed, or waits for a retry, is left for `advance`.

        Time passes only as far as handlers need to end. Raises UsageError where they don't within a day.
        """
        await self._bridge.run(self._settle)

    async def advance(self, seconds: Seconds, /) -> None:
        """Let time pass, seconds or a timedelta, with all that falls due in it: retries, delays, schedules, expiry."""
        await self._bridge.run(lambda: self._loop.advance(_length_s(seconds)))

    # --- what has happened

    def context(self) -> Context:
        """Give a Context to call a handler as the function it is: `await register(NewUser(…), harness.context())`.

        What the handler sends and publishes is staged, shown by `sent` and `published`, and never leaves. Calls are
        answered by the harness's services and fakes.
        """
        host = self._bridge.stand_still(self._running_host)
        context = loose_context(host.means, self._bridge)
        self._contexts.append(context)
        return context

    def sent(self, operation: Operation[Request, Any], /) -> list[Request]:
        """Give every request that was sent, in order: by the client, and by handlers that succeeded."""
        messages = [*self._store.sent, *self._staged()]
        return [operation.request.decode(one.body) for one in messages if one.queue == operation.full_name]

    def published(self, event: Event[T], /) -> list[T]:
        """Give what was published, in order, whether anybody listens or not."""
        messages = [*self._store.published, *self._staged()]
        return [event.data.decode(one.body) for one in messages if one.event == event.full_name]

    def dead_letters(self) -> list[DeadLetter]:
        """Give what was given up and hasn't been replayed."""
        return [_dead_letter(row) for row in self._store.dead()]

    # --- what others do

    def fake(self, operation: Operation[Request, Reply], answer: Callable[[Request], Reply], /) -> None:
        """Let a function answer an operation, called or sent; it may raise the operation's Problems, or any exception.

        It takes the place of a handler that is given. Before the first use only, but for a new answer to a fake.
        """
        full_name = operation.full_name
        if self._starting is not None and full_name not in self._fakes:
            raise UsageError(f"{full_name} can be faked only before the harness is first used.")
        self._fakes[full_name] = (operation, answer)
        self._queues.setdefault(full_name, _fake_service(operation))

    @contextmanager
    def down(self, contract: type[Contract], /) -> Generator[None]:
        """Let the service of a contract be down: calls raise Unavailable, its messages wait until it is back."""
        names = self._services_of(contract)
        for name in names:
            self._faults.set_down(name, 1)
        try:
            yield
        finally:
            for name in names:
                self._faults.set_down(name, -1)
            self._wake([queue for queue, service in self._queues.items() if service in names])

    @contextmanager
    def slow(self, contract: type[Contract], seconds: Seconds, /) -> Generator[None]:
        """Let every handler of a contract's service take so much longer."""
        length_s, names = _length_s(seconds), self._services_of(contract)
        for name in names:
            self._faults.set_slow(name, length_s)
        try:
            yield
        finally:
            for name in names:
                self._faults.set_slow(name, -length_s)

    @contextmanager
    def duplicate(self, contract: type[Contract], /, *, share: float = 1.0) -> Generator[None]:
        """Let messages be handled twice, as after a lost lease: what the first time staged is lost, what it did
        elsewhere was done. `share` of them, by the seed's chance. A call is never repeated."""
        names = self._services_of(contract)
        for name in names:
            self._faults.set_repeating(name, share)
        try:
            yield
        finally:
            for name in names:
                self._faults.set_repeating(name, 0.0)

    @contextmanager
    def crash_after(self, contract: type[Contract], /, *, messages: int = 1) -> Generator[None]:
        """Let the worker die after each of the next messages has been handled and before that is committed. Such a
        message is handled again once its lease has ended: 30 s."""
        names = self._services_of(contract)
        for name in names:
            self._faults.set_crashing(name, messages)
        try:
            yield
        finally:
            for name in names:
                self._faults.set_crashing(name, 0)

    # --- life

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._end()

    async def close(self) -> None:
        """Stop the services. Handlers that still run are cancelled; what waits is gone. Repeating it is harmless."""
        await asyncio.get_running_loop().run_in_executor(None, self._end)

    def _begin(self) -> None:
        """Let the loop run, at first use."""
        with self._lock:
            if self._closed:
                raise UsageError("This harness is closed: make another.")
            if self._thread is None:
                self._thread = threading.Thread(target=self._loop.run_forever, name="ringpost-harness", daemon=True)
                self._thread.start()

    def _end(self) -> None:
        with self._lock:
            if self._closed:
                return
            self._closed = True
        if self._thread is not None:
            self._loop.run(self._stop, contextvars.Context()).result()
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
        self._loop.close()

    async def _stop(self) -> None:
        if self._starting is not None:
            await asyncio.wait([self._starting])
        if self._host is not None:
            await self._host.stop(0.0)
        await self._inner.close()
        await self._store.close()
        await self._loop.shutdown_asyncgens()
        await self._loop.shutdown_default_executor()

    async def _opened(self) -> None:
        """Start the services at first use; who comes meanwhile waits for it."""
        if self._starting is None:
            # In a context of their own: what the test has set must not reach handlers that run much later.
            self._starting = self._loop.create_task(self._start(), context=contextvars.Context())
        await asyncio.shield(self._starting)

    async def _start(self) -> None:
        host = _Host(self._watched(), self._store, self._settings, self._faults, self._provides)
        await self._store.open()
        await host.start(work=True, thread=False, clock_ms=self._now_ms)
        self._host = host

    async def _running_host(self) -> "_Host":
        assert self._host is not None
        return self._host

    def _watched(self) -> list[Service]:
        """Give copies of the services, with the faults around their handlers and the fakes in their place."""
        services: list[Service] = []
        for service in self._services:
            watched = copy.copy(service)
            watched.handlers = {queue: self._faked(handler) for queue, handler in service.handlers.items()}
            services.append(watched)
        for full_name, (operation, _) in self._fakes.items():
            if not any(full_name in service.handlers for service in self._services):
                name = _fake_service(operation)
                fakes = next((one for one in services if one.name == name), None)
                if fakes is None:
                    services.append(fakes := Service(name=name))
                fakes.handlers[full_name] = self._faked(_fake_handler(operation))
        for service in services:
            service.middleware = (self._faults.middleware(service.name), *service.middleware)
        return services

    def _faked(self, handler: Handler) -> Handler:
        fakes = self._fakes
        if handler.name not in fakes or handler.operation is None:
            return handler

        async def answered(request: Any) -> Any:
            answer = fakes[handler.name][1](request)
            return await answer if inspect.isawaitable(answer) else answer

        return structs.replace(handler, function=answered, is_async=True, hints={})

    # --- inside

    def _now_ms(self) -> int:
        return self._begin_ms + int(self._loop.time() * 1000 + 1e-3)

    def _landmark_s(self) -> float | None:
        """Give the next instant at which the store has something to do, or a handler has run for too long."""
        instants: list[float] = []
        event_ms = self._store.next_event_ms()
        if event_ms is not None:
            instants.append((event_ms - self._begin_ms) / 1000)
        if self._host is not None:
            instants += self._host.ends_s()
        return min(instants, default=None)

    def _reached(self) -> None:
        self._tending = self._loop.create_task(self._tend())

    async def _tend(self) -> None:
        while (await self._store.tend()).more:
            pass

    def _threads_running(self) -> int:
        return 0 if self._host is None else self._host.threads_running()

    async def _settle(self) -> None:
        until_s = self._loop.time() + SETTLE_S_MAX
        queues = frozenset(self._queues)
        await self._loop.quiet(lambda: self._store.idle(queues) or self._loop.time() > until_s)
        if self._loop.time() > until_s:
            raise UsageError("settle waited for a day, and there was always something to do: use advance.")

    def _staged(self) -> list[Message]:
        """Give what was staged in contexts that belong to no handling."""
        stagings = [context._staging for context in self._contexts]
        return [message for staging in stagings if staging is not None for message in staging.messages]

    def _services_of(self, contract: type[Contract]) -> list[str]:
        names = [service.name for service in self._services if contract in service.contracts]
        names += {_fake_service(one) for one, _ in self._fakes.values() if one.contract_name == name_of(contract)}
        if not names:
            raise UsageError(f"No service of {contract.__name__} is in this harness, and no operation of it is faked.")
        return names

    def _wake(self, queues: list[str]) -> None:
        if not self._closed:
            self._loop.call_soon_threadsafe(self._store.wake, queues)


class _Host(Host):
    """The host under faults: where a service is down, nobody is there."""

    def __init__(
        self,
        services: Sequence[Service],
        store: WatchedStore,
        settings: Settings,
        faults: Faults,
        provides: Sequence[Provider],
    ) -> None:
        super().__init__(services, store, settings, overrides=provides)
        self._faults = faults

    @property
    def means(self) -> Means:
        return self._running().pipeline._means

    def serves(self, operation: str) -> bool:
        return super().serves(operation) and not self._faults.down(operation)

    def ends_s(self) -> list[float]:
        """Give when handlers will have run for too long; the sweep that ends them comes a little later."""
        started = self._started
        if started is None:
            return []
        running = started.pipeline._running.values()
        return [context._ends_s + 2 * SWEEP_S for context in running if not context._asked]

    def threads_running(self) -> int:
        return 0 if self._started is None else self._started._threads.running


class _Late:
    """The services of the harness, as its client knows them before they run."""

    def __init__(self, harness: Harness) -> None:
        self._harness = harness

    def _host(self) -> Host:
        host = self._harness._host
        assert host is not None
        return host

    def serves(self, operation: str) -> bool:
        return self._host().serves(operation)

    async def call(self, call: Call) -> Answer:
        return await self._host().call(call)

    async def accept(self, call: Call) -> Accepted | Answer:
        return await self._host().accept(call)


def _length_s(length: Seconds) -> float:
    return seconds(length, "the length of time")


def _fake_service(operation: Operation[Any, Any]) -> str:
    return f"fake_{operation.contract_name}"


def _fake_handler(operation: Operation[Any, Any]) -> Handler:
    """Describe the handler of an operation that is only faked."""

    async def nobody(request: Any) -> None:
        raise AssertionError(f"{operation.full_name} is faked")

    return Handler(
        work="operation",
        service=_fake_service(operation),
        name=operation.full_name,
        queue=operation.full_name,
        function=nobody,
        is_async=True,
        hints={},
        request=operation.request,
        reply=operation.reply,
        raises=tuple(operation.raises),
        operation=operation,
        retry={Exception: Retry()},
    )


def _dead_letter(row: Row) -> DeadLetter:
    """Read the letter that `on_failure` would get."""
    letters = farewell.letters(row.ended("somebody"), row.settled_ms or 0)
    return msgspec.json.decode(letters[-1].body, type=DeadLetter)
