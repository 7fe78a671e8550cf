"""Who is alive, as the store's notes say: read once a second at most while somebody is known, and passed over for a
while where it refused."""

import asyncio
from collections.abc import Mapping, Sequence

from ringpost.client.target import Target, target_of
from ringpost.contract.errors import UsageError
from ringpost.core.notes import INSTANCE, Instance, decode_instance
from ringpost.store.port import Store

REFRESH_S = 1.0
SKIP_S = 5.0
_NOBODY: Sequence[Target] = ()


class Instances:
    """The doors of the processes on one store. `boot_id`: of this host; another host's loopback isn't ours."""

    def __init__(self, store: Store, boot_id: str) -> None:
        self._store = store
        self._boot_id = boot_id
        self._clock = asyncio.get_running_loop().time
        self._doors: Mapping[str, Sequence[Target]] = {}  # operation → who serves it
        self._stopping: Mapping[str, Sequence[Target]] = {}  # and who does for a moment yet
        self._read_s = float("-inf")
        self._reading: asyncio.Task[None] | None = None
        self._refused_s: dict[str, float] = {}  # instance → when
        self._turn = 0

    async def serving(self, operation: str) -> Sequence[Target]:
        """Give the doors that serve an operation (full name), another one first each time; last those that stop."""
        if self._clock() - self._read_s >= REFRESH_S:
            # Set first: who comes meanwhile goes by what was known.
            self._read_s = self._clock()
            await self._look()
        doors = self._known(operation)
        if not doors:
            await self._look()
            doors = self._known(operation)
        return doors

    def beside(self, operation: str, door: Target) -> Target | None:
        """Give another door that serves an operation, of those that were known last; whose turn it is stays so."""
        doors = self._left(self._doors, operation)
        return next((one for one in doors if one.instance != door.instance), None)

    def refused(self, door: Target) -> None:
        """Pass a door over for five seconds, and see who has come in its place."""
        self._refused_s[door.instance] = self._clock()
        self._read_s = float("-inf")

    def _known(self, operation: str) -> Sequence[Target]:
        doors = self._left(self._doors, operation)
        if len(doors) > 1:
            self._turn = turn = (self._turn + 1) % len(doors)
            doors = [*doors[turn:], *doors[:turn]]
        stopping = self._left(self._stopping, operation)
        return [*doors, *stopping] if stopping else doors

    def _left(self, doors: Mapping[str, Sequence[Target]], operation: str) -> Sequence[Target]:
        """Give those that haven't refused of late."""
        found = doors.get(operation, _NOBODY)
        if self._refused_s:
            now_s = self._clock()
            self._refused_s = {id: at_s for id, at_s in self._refused_s.items() if now_s - at_s < SKIP_S}
            return [door for door in found if door.instance not in self._refused_s]
        return found

    async def _look(self) -> None:
        """Read the notes. Many may wait for one reading; who gives up must not take it from the others."""
        if self._reading is None or self._reading.done():
            self._reading = asyncio.ensure_future(self._read())
            self._reading.add_done_callback(_looked_at)
        await asyncio.shield(self._reading)

    async def _read(self) -> None:
        doors: dict[str, list[Target]] = {}
        stopping: dict[str, list[Target]] = {}
        for note in await self._store.notes(INSTANCE):
            instance = decode_instance(note.value)
            target = self._target(note.name.removeprefix(INSTANCE), instance)
            if target is not None:
                for operation in instance.operations:
                    (stopping if instance.stopping else doors).setdefault(operation, []).append(target)
        self._doors, self._stopping = doors, stopping

    def _target(self, id: str, instance: Instance) -> Target | None:
        if not instance.url:
            return None
        try:
            target = target_of(instance.url, id)
        except UsageError:  # a version of later, or nonsense: a note must never stop calls
            return None
        if instance.boot_id != self._boot_id and _is_loopback(target.origin.host):
            return None
        return target


def _looked_at(reading: asyncio.Task[None]) -> None:
    if not reading.cancelled():
        reading.exception()  # who asked for it has gone away: nobody is left to be told


def _is_loopback(host: str) -> bool:
    return host == "localhost" or host == "::1" or host.startswith("127.")
