"""Two services, each with a store of its own, and those who use them; with crashes, and weather in the network.

`front` takes orders: it calls `back` (paying under a key, and looking something up) and sends it a note, which goes
from store to store. `back` runs in two processes behind one name. What takes effect is an entry that a handler stages:
it leaves with the handler's success, or not at all. Users have no store; the desk has the one of `front`.
"""

import asyncio
import contextlib
import itertools
import random
from collections.abc import Awaitable, Callable, Sequence

from msgspec import Struct

from ringpost import (
    Client,
    Context,
    Contract,
    Operation,
    OperationFailed,
    RingpostError,
    Service,
    StoreError,
    Ticket,
    TransportError,
)
from ringpost.forward.forwarder import Forwarder
from ringpost.http.door import Door
from ringpost.http.server import Server
from ringpost.service.host import Host
from ringpost.service.slots import Slots
from ringpost.settings import Settings
from ringpost.store.memory.store import MemoryStore
from simulated.disk import Disk
from simulated.history import Asked, Ending, History, Watched
from simulated.machine import Loop, Process, current, inside
from simulated.network import FAIR, Network, Place, Weather

PORT = 80
FAULTS_S = 20.0
CALM_S = 150.0  # after the last fault, by when everything has ended
ACTIONS = 20
WELL_S = 15.0  # after the last fault, by when calls go well again
SHORT_S, LONG_S = 0.8, 4.0  # the most that a handler works
SETTINGS = Settings(http=None, durability="buffered", lease_s=3.0, limit_least=2)
STOPS = 0.4  # of what happens to processes; the others are killed
CROWDS = 0.3  # of the runs: many look something up at once
CROWD = 50
FAILS = 0.08  # of the handlers' runs, while there are faults


class Job(Struct):
    id: str
    work_s: float


class Back(Contract):
    pay = Operation(Job, str, timeout=2)
    poke = Operation(Job, str, timeout=2)
    look = Operation(Job, str, effect="read", timeout=2)
    note = Operation(Job, str)


class Ledger(Contract):
    entry = Operation(Job)


class Front(Contract):
    order = Operation(Job, str, timeout=3)


class Town:
    """Everything of one run."""

    def __init__(self, loop: Loop, chance: random.Random, history: History) -> None:
        self.loop = loop
        self.chance = chance
        self.history = history
        self.network = Network(loop, chance, history.trace)
        clock = lambda: int((loop.now_s + 1_750_000_000) * 1000)  # noqa: E731
        self.front_store = MemoryStore(SETTINGS, clock)
        self.back_store = MemoryStore(SETTINGS, clock)
        self.faulty = True
        self.running: dict[str, Running] = {}
        self.hosts: dict[str, Host] = {}  # by process
        self.people = Process("people", loop)  # who use it; they are never killed
        self.processes: list[Process] = [self.people]

    # --- the services

    def back(self) -> Sequence[Service]:
        back, ledger = Service(Back), Service(Ledger)

        @back.implements(Back.pay, concurrency=3)
        async def pay(job: Job, ctx: Context) -> str:
            await self.work("pay", job, ctx)
            await ctx.send(Ledger.entry, job)
            return job.id

        @back.implements(Back.poke, concurrency=3)
        async def poke(job: Job, ctx: Context) -> str:
            await self.work("poke", job, ctx)
            return job.id

        @back.implements(Back.look, concurrency=3)
        async def look(job: Job, ctx: Context) -> str:
            await self.work("look", job, ctx)
            return job.id

        @back.implements(Back.note, concurrency=3)
        async def note(job: Job, ctx: Context) -> str:
            await self.work("note", job, ctx)
            await ctx.send(Ledger.entry, job)
            return job.id

        @ledger.implements(Ledger.entry)
        async def entry(job: Job) -> None:
            pass

        return back, ledger

    def front(self) -> Sequence[Service]:
        front = Service(Front)

        @front.implements(Front.order, concurrency=4)
        async def order(job: Job, ctx: Context) -> str:
            await self.work("order", job, ctx)
            await ctx.send(Back.note, Job(f"{job.id}-note", job.work_s), idempotency_key=f"{job.id}-note")
            await ctx.call(Back.look, Job(f"{job.id}-look", job.work_s))
            return await ctx.call(Back.pay, Job(f"{job.id}-pay", job.work_s), idempotency_key=f"{job.id}-pay")

        return (front,)

    async def work(self, kind: str, job: Job, ctx: Context) -> None:
        self.history.begun(kind, job.id, ctx.remaining)
        self._look_at_slots("front.order" if kind == "order" else f"back.{kind}")
        await asyncio.sleep(job.work_s)
        if self.faulty and self.chance.random() < FAILS:
            raise RuntimeError("chance had it so")

    def _look_at_slots(self, queue: str) -> None:
        """See that no more run, and no more wait, than this process has slots for: its limit is never above them."""
        process = current()
        assert process is not None
        slots = self.hosts[process.name].entrance(queue)
        assert isinstance(slots, Slots)
        if slots.used > slots.total or slots.waiting > slots.total:
            self.history.broken.append(
                f"{self.loop.now_s:.3f} {queue} in {process}: {slots.used} run and {slots.waiting} wait, with "
                f"{slots.total} slots"
            )

    def settled(self) -> bool:
        """Say whether nothing is left to do in either store."""
        return all(row.state.terminal for store in (self.front_store, self.back_store) for row in store.place.rows)

    # --- processes

    async def start(self, name: str) -> None:
        """Start a process of a service: front, back-1, back-2."""
        process = Process(f"{name} ({len(self.processes)})", self.loop)
        self.processes.append(process)
        made = Running(self, process)
        self.running[name] = made
        self.history.trace(f"{name} starts")
        await inside(process, made.open)

    def kill(self, name: str) -> None:
        self.history.trace(f"{name} is killed")
        self.running.pop(name).kill()

    async def stop(self, name: str, time_s: float) -> None:
        """Let a process stand still for a time, and go on."""
        process = self.running[name].process
        self.history.trace(f"{name} is stopped for {time_s:.1f} s")
        self.loop.stop_process(process)
        await asyncio.sleep(time_s)
        self.loop.go_on(process)

    def client(self, store: MemoryStore | None = None) -> Client:
        """Give a client of those who use it."""
        settings = _addressed("back", "front") if store is None else _addressed("back")
        disk = None if store is None else Disk(store, self.people, self.chance)
        return Client._attached(disk, None, settings, self.people.world)


class Running:
    """A process of a service that runs."""

    def __init__(self, town: Town, process: Process) -> None:
        self._town = town
        self.process = process
        self._is_front = process.name.startswith("front")
        store = town.front_store if self._is_front else town.back_store
        self._disk = Disk(store, process, town.chance)

    async def open(self) -> None:
        town = self._town
        services = town.front() if self._is_front else town.back()
        name = "front" if self._is_front else "back"
        settings = _addressed("back") if self._is_front else SETTINGS
        host = Host(services, self._disk, settings, world=self.process.world)
        town.hosts[self.process.name] = host
        await host.start(True, thread=False)
        if self._is_front:
            forwarder = Forwarder(self._disk, host.settings, world=self.process.world)
            await forwarder.start(thread=False)
            host.forwards = forwarder.queues
        door = Door(host, settings)
        server = Server(door, settings, refuse=door.turn_away)
        await server.listen(Place(name, PORT))  # type: ignore[arg-type]
        await host.announce(f"http://{name}:{PORT}")

    def kill(self) -> None:
        self._town.loop.kill(self.process)
        self._town.network.kill(self.process)
        self._disk.kill()


def _addressed(*names: str) -> Settings:
    contracts = {"back": Back, "front": Front}
    addresses = {contracts[name].__name__.lower(): f"http://{name}:{PORT}" for name in names}
    if "back" in names:
        addresses["ledger"] = f"http://back:{PORT}"
    return Settings(http=None, durability="buffered", lease_s=SETTINGS.lease_s, addresses=addresses)


# --- those who use it


class Users:
    """Ask for things at times that chance chooses, and note what comes of them."""

    def __init__(self, town: Town) -> None:
        self._town = town
        self._history = town.history
        self._chance = town.chance
        self._patient = False
        self._numbers = itertools.count()
        self._client = town.client()
        self._desk = town.client(town.front_store)
        self._actions: Sequence[tuple[str, Callable[[Asked, Job], Awaitable[None]]]] = (
            ("order", self._order),
            ("pay", self._pay),
            ("poke", self._poke),
            ("look", self._look),
            ("note", self._post),
            ("note", self._send),
            ("pay", self._ask_or_leave),
        )

    async def act(self) -> None:
        """Do everything; comes back once all have been told, or have given up."""
        chance = self._chance
        tasks = [
            asyncio.ensure_future(
                self._once(next(self._numbers), chance.random() * FAULTS_S, *chance.choice(self._actions))
            )
            for _ in range(ACTIONS)
        ]
        if chance.random() < CROWDS:
            await self._crowd()
        for task in tasks:
            await task

    async def _crowd(self) -> None:
        """Look things up as often as a breaker needs to see, and more at once than there are slots."""
        await asyncio.sleep(self._chance.random() * FAULTS_S / 2)
        looks = []
        for _ in range(CROWD):
            looks.append(asyncio.ensure_future(self._once(next(self._numbers), 0.0, "look", self._look)))
            await asyncio.sleep(self._chance.random() * 0.2)
        for look in looks:
            await look

    async def all_once(self) -> None:
        """Do one of each. All of them go well, as soon as breakers have found out that they may."""
        self._patient = True
        until_s = self._town.loop.time() + WELL_S
        for kind, action in self._actions:
            while True:
                asked = await self._once(next(self._numbers), 0.0, kind, action)
                if asked.ending == "ok":
                    break
                if self._town.loop.time() > until_s:
                    said = f"{asked.id}, asked {WELL_S:g} s after all was well again: {asked.ending} {asked.said}"
                    self._history.broken.append(said)
                    break
                await asyncio.sleep(0.3)

    async def _once(
        self, number: int, at_s: float, kind: str, action: Callable[[Asked, Job], Awaitable[None]]
    ) -> Asked:
        await asyncio.sleep(at_s)
        work_s = self._chance.random() ** 3 * (LONG_S if kind == "note" else SHORT_S)
        job = Job(f"{action.__name__.strip('_')}-{number}", work_s)
        asked = self._history.ask(kind, job.id)
        try:
            await action(asked, job)
        except OperationFailed as error:
            self._history.end(asked, "failed", error.cause)
        except TransportError as error:
            asked.denied = error.processed == "no"
            self._history.end(asked, "failed" if asked.denied else "unknown", type(error).__name__)
        except RingpostError as error:
            self._history.end(asked, "unknown", type(error).__name__)
        else:
            self._history.end(asked, "ok")
        return asked

    async def _order(self, asked: Asked, job: Job) -> None:
        await self._client.call(Front.order, job, timeout=self._time_s(), idempotency_key=job.id)

    async def _pay(self, asked: Asked, job: Job) -> None:
        await self._client.call(Back.pay, job, timeout=self._time_s(), idempotency_key=job.id)

    async def _poke(self, asked: Asked, job: Job) -> None:
        await self._client.call(Back.poke, job, timeout=self._time_s())

    async def _look(self, asked: Asked, job: Job) -> None:
        await self._client.call(Back.look, job, timeout=self._time_s())

    async def _post(self, asked: Asked, job: Job) -> None:
        """Send without a store, under a key; whoever gets no receipt sends it again."""
        while True:
            try:
                ticket = await self._client.send(Back.note, job, idempotency_key=job.id)
                break
            except (TransportError, StoreError):
                await asyncio.sleep(0.5)
        asked.sent = True
        await self._watch("note", job.id, ticket)

    async def _send(self, asked: Asked, job: Job) -> None:
        ticket = await self._desk.send(Back.note, job, idempotency_key=job.id)
        asked.sent = True
        await self._watch("note", job.id, ticket)

    async def _ask_or_leave(self, asked: Asked, job: Job) -> None:
        got = await self._desk.call_or_send(Back.pay, job, wait=self._time_s())
        if isinstance(got, Ticket):
            asked.sent = True
            await self._watch("pay", job.id, got)

    async def _watch(self, kind: str, id: str, ticket: "Ticket[str]") -> None:
        """Look at a ticket until it has ended, and at its result."""
        watched = Watched(id, kind)
        self._history.tickets.append(watched)
        over = False
        while not over:
            with contextlib.suppress(TransportError, StoreError):
                status = await ticket.status()
                self._history.seen(watched, status)
                over = status.state in ("succeeded", "failed", "cancelled", "expired")
            await asyncio.sleep(0.4)
        watched.result = await self._result(ticket)

    async def _result(self, ticket: "Ticket[str]") -> Ending:
        left = 20  # after the faults
        while left:
            try:
                await ticket.result(timeout=5)
            except OperationFailed:
                return "failed"
            except (RingpostError, TimeoutError):
                left -= not self._town.faulty
                await asyncio.sleep(0.5)
            else:
                return "ok"
        return "unknown"

    def _time_s(self) -> float:
        return 5.0 if self._patient else 0.2 + 2.5 * self._chance.random()


# --- what goes wrong


async def faults(town: Town) -> None:
    """Let the weather change and kill processes for FAULTS_S; then everything runs and the weather is fair."""
    chance, network = town.chance, town.network

    async def weather() -> None:
        while True:
            network.weather = _weather(chance)
            town.history.trace(f"weather: {network.weather}")
            await asyncio.sleep(0.5 + 4 * chance.random())

    async def crashes(name: str) -> None:
        while True:
            await asyncio.sleep(16 * chance.random())
            if chance.random() < STOPS:
                await asyncio.shield(asyncio.ensure_future(town.stop(name, 2 + 10 * chance.random())))
                continue
            town.kill(name)
            await asyncio.sleep(0.2 + 5 * chance.random() ** 2)
            await asyncio.shield(asyncio.ensure_future(town.start(name)))  # one that was half started would be none

    tasks = [asyncio.ensure_future(one) for one in (weather(), *map(crashes, tuple(town.running)))]
    await asyncio.sleep(FAULTS_S)
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    network.calm()
    town.faulty = False
    for running in town.running.values():
        town.loop.go_on(running.process)
    town.history.trace("no more faults")
    for name in ("front", "back-1", "back-2"):
        if name not in town.running:
            await town.start(name)


def _weather(chance: random.Random) -> Weather:
    kinds = (
        FAIR,
        Weather(slow=0.3, slow_s=1.5),
        Weather(lose=0.15),
        Weather(cut=0.25),
        Weather(refuse=0.6, hang=0.2),
        Weather(double=0.8, slow=0.2, slow_s=0.3),
        Weather(slow=0.2, slow_s=0.5, lose=0.05, cut=0.1, refuse=0.1, double=0.2),
    )
    return chance.choice(kinds)
