"""What a process writes into the store about itself: who subscribes, whose the queues are, what the operations look
like, and where its door is. Others read it: publishers, the command line, callers that look for a live instance."""

import asyncio
import contextlib
import socket
from collections.abc import Callable, Coroutine, Iterable, Mapping
from typing import Any

from msgspec import Struct

from ringpost.client.posting import log_s
from ringpost.contract.errors import RingpostError
from ringpost.contract.operation import Event, Operation
from ringpost.contract.problem import Problem, problem_type
from ringpost.core import notes
from ringpost.service.attendance import Attendance
from ringpost.service.catching_up import CatchingUp
from ringpost.service.handler import Handler
from ringpost.service.schedule import wall_ms
from ringpost.store.hostclock import boot_id
from ringpost.store.port import Note, Store

_LEAVING_S = 60.0  # longer than stopping takes
_SEEN_S = 3600.0  # a subscription unseen for a day alarms: to be seen each hour is enough


class Command(Struct, frozen=True):
    """By what a process is known, or all processes of one command, as they share its sockets."""

    instance: str
    pid: int
    processes: int = 1


class Door(Struct, frozen=True):
    """Where this process is reached over HTTP."""

    command: Command
    url: str
    operations: tuple[str, ...]
    queues: tuple[str, ...]


class Register:
    """Keeps the notes of one process."""

    def __init__(
        self,
        store: Store,
        handlers: Mapping[str, Handler],
        failure_queues: Mapping[str, str],
        clock_ms: Callable[[], int] = wall_ms,
    ) -> None:
        """`failure_queues`: by queue, who hears of its dead messages."""
        self._store = store
        self._handlers = handlers
        self._failure_queues = failure_queues
        self._attendance = Attendance(store, handlers.values(), clock_ms)
        self._catching_up = CatchingUp(store, self._attendance.names)
        self._tasks: set[asyncio.Task[None]] = set()
        self._door: Door | None = None
        self._announcing: asyncio.Task[None] | None = None
        self._started_ms = wall_ms()

    async def write(self) -> None:
        """Write what must be there before the first message comes: whose the queues are, who listens to what."""
        await self._write_queues()
        await self._attendance.say_seen()
        await self._catching_up.begin()
        await self._describe()
        self._spawn(self._keep_seen())
        self._spawn(self._catching_up.run())

    async def announce(self, door: Door, lease_s: float) -> None:
        """Say where the door of this process is, for as long as it lives: the note ends with its lease."""
        await self._announce(door, lease_s)
        self._door = door
        self._announcing = self._spawn(self._keep_announced(door, lease_s))

    def leave(self) -> None:
        """Say that the door is about to close: callers prefer others from now on."""
        announcing, self._announcing = self._announcing, None
        if announcing is not None and self._door is not None:
            announcing.cancel()
            self._spawn(self._say_stopping(self._door, announcing))

    async def withdraw(self) -> None:
        """Say that the door is closed: callers go elsewhere."""
        door, self._door = self._door, None
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        if door is not None:
            with contextlib.suppress(RingpostError):  # its lease ends by itself
                await self._store.note_drop(notes.instance(door.command.instance))

    async def _say_stopping(self, door: Door, announcing: "asyncio.Task[None]") -> None:
        await asyncio.wait((announcing,))  # it must not write after this
        with contextlib.suppress(RingpostError):
            await self._announce(door, _LEAVING_S, stopping=True)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _write_queues(self) -> None:
        known = {note.name: note.value for note in await self._store.notes(notes.QUEUE)}
        for queue, handler in self._handlers.items():
            value = notes.encode(notes.Queue(handler.service, self._failure_queues.get(queue, ""), handler.halt))
            await self._write_changed(known, notes.queue(queue), value)

    async def _describe(self) -> None:
        known = {note.name: note.value for note in await self._store.notes(notes.OPERATION)}
        for handler in self._handlers.values():
            if handler.operation is not None:
                value = notes.encode(described(handler.operation, handler.service))
                await self._write_changed(known, notes.operation(handler.name), value)

    async def describe_events(self, events: Iterable[tuple[Event[Any], str]]) -> None:
        """Write what events look like, each with the service that publishes it."""
        known = {note.name: note.value for note in await self._store.notes(notes.OPERATION)}
        for event, service in events:
            value = notes.encode(described_event(event, service))
            await self._write_changed(known, notes.operation(event.full_name), value)

    async def _write_changed(self, known: Mapping[str, bytes], name: str, value: bytes) -> None:
        if known.get(name) != value:
            await self._store.note_put(Note(name, value))

    async def _keep_seen(self) -> None:
        while True:
            await asyncio.sleep(_SEEN_S)
            with contextlib.suppress(RingpostError):
                await self._attendance.say_seen()
                await self._attendance.look()

    async def _keep_announced(self, door: Door, lease_s: float) -> None:
        while True:
            await asyncio.sleep(lease_s / 3)
            with contextlib.suppress(RingpostError):
                await self._announce(door, lease_s)

    async def _announce(self, door: Door, lease_s: float, *, stopping: bool = False) -> None:
        value = notes.Instance(
            url=door.url,
            boot_id=boot_id(),
            host=socket.gethostname(),
            pid=door.command.pid,
            started_ms=self._started_ms,
            operations=door.operations,
            queues=() if stopping else door.queues,
            stopping=stopping,
            processes=door.command.processes,
        )
        await self._store.note_put(Note(notes.instance(door.command.instance), notes.encode(value), lease_s=lease_s))


def described(operation: Operation[Any, Any], service: str) -> notes.Described:
    """Describe an operation for who knows no Python of it."""
    return notes.Described(
        service=service,
        doc=operation.doc,
        request=None if operation.request.empty else operation.request.schema(),
        reply=None if operation.reply.empty else operation.reply.schema(),
        problems={problem_type(operation.contract_name, one): _outline(one) for one in operation.raises},
        secrets=operation.request.secrets,
        timeout_s=operation.timeout_s,
        ttl_s=operation.ttl_s,
        priority=operation.priority or "",
        effect=operation.effect or "",
        ordered=operation._line_key is not None,
        keyed=operation._dedup_key is not None,
    )


def described_event(event: Event[Any], service: str) -> notes.Described:
    """Describe an event for who knows no Python of it."""
    return notes.Described(
        kind="event",
        service=service,
        doc=event.doc,
        request=None if event.data.empty else event.data.schema(),
        secrets=event.data.secrets,
        ordered=event._line_key is not None,
        log_s=log_s(event),
    )


def _outline(problem: type[Problem]) -> dict[str, Any]:
    return {"title": problem.title, "status": problem.status, "code": problem.code}
