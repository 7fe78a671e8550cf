"""Moving the logs of events: each in its order, as far as nobody in the new store may miss what comes there late."""

from collections.abc import AsyncGenerator, Sequence
from typing import cast

from msgspec import structs

from ringpost.core import notes
from ringpost.store.log import Logged
from ringpost.store.port import Movable, Note, Passage, Store


async def worked(store: Store) -> list[notes.Instance]:
    """Give the processes that work a store."""
    return [notes.decode_instance(note.value) for note in await store.notes(notes.INSTANCE)]


class LogMover:
    """The part of a move that carries logs, so many entries at a time. May be killed and begun anew at any moment."""

    def __init__(self, source: Store, target: Store, passage: Passage, batch_rows: int) -> None:
        self._source = source
        self._target = target
        self._there, self._here = cast(Movable, source), cast(Movable, target)
        self._passage = passage
        self._batch_rows = batch_rows

    async def run(self) -> AsyncGenerator[int, None]:
        """Carry what goes; says after each batch how many entries have gone."""
        gone = 0
        for event in await self.left():
            after = 0
            while not await worked(self._target) and (page := await self._page(event, after)):
                after = page[-1].entry.pos
                sound = [logged for logged in page if logged.sound]
                if sound and not await self.carry(event, sound):
                    break
                gone += len(sound)
                yield gone

    async def left(self) -> list[str]:
        """Name the events of whose log something is in the old store."""
        events = [note.name.removeprefix(notes.OPERATION) for note in await self._source.notes(notes.OPERATION)]
        return [event for event in events if await self._there.has_log(event)]

    async def _page(self, event: str, after: int) -> list[Logged]:
        return await self._there.export_log(event, after, self._batch_rows)

    async def carry(self, event: str, entries: Sequence[Logged]) -> bool:
        """Keep entries in the new store, let those who missed some know where they are there, and only then take them
        out of the old one. False where they have to stay."""
        places = await self._here.take_in_log(event, entries, self._passage)
        if not places:
            return False
        await self._mend_gaps(event, entries, places)
        await self._there.take_out_log(event, entries)
        return True

    async def _mend_gaps(self, event: str, entries: Sequence[Logged], places: Sequence[int]) -> None:
        """Note for suspended subscriptions where the first that they missed is in the new store's log."""
        for note in await self._source.notes(notes.subscription(event, "")):
            gap_at = notes.decode_subscription(note.value).gap_at
            place = next((at for one, at in zip(entries, places, strict=True) if one.entry.pos >= gap_at > 0), None)
            if place is not None:
                await self._mend_gap(note.name, place)

    async def _mend_gap(self, name: str, place: int) -> None:
        while True:
            there = next((note for note in await self._target.notes(name) if note.name == name), None)
            gap = notes.Subscription() if there is None else notes.decode_subscription(there.value)
            if there is None or gap.gap_at or not gap.gap_count:
                return
            mended = Note(name, notes.encode(structs.replace(gap, gap_at=place)))
            if await self._target.note_put(mended, expect=there.version):
                return
