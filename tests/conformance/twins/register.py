"""Stores that keep notes wrongly."""

from msgspec import structs

from ringpost.store.memory.store import MemoryStore
from ringpost.store.port import Note


class WritesNotesBlindly(MemoryStore):
    """Overwrites a note whatever version was expected."""

    async def note_put(self, note: Note, *, expect: int | None = None) -> bool:
        return await super().note_put(note)


class NotesWithoutLease(MemoryStore):
    """Keeps a leased note for ever."""

    async def note_put(self, note: Note, *, expect: int | None = None) -> bool:
        return await super().note_put(structs.replace(note, lease_s=None), expect=expect)
