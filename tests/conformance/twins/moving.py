"""Stores that move wrongly: what they give away, take in, and remember of both."""

from collections.abc import Callable, Sequence

from msgspec import structs

from ringpost.core import notes
from ringpost.core.message import Record, State
from ringpost.store.log import Logged
from ringpost.store.memory import change, move, move_log
from ringpost.store.memory.log import Log
from ringpost.store.memory.place import KeptNote
from ringpost.store.memory.row import Row
from ringpost.store.memory.store import MemoryStore
from ringpost.store.memory.turn import Turn
from ringpost.store.port import Exported, Note, Passage, Put
from twins.twin import instead_of

TakeIn = Callable[[Turn, Exported, frozenset[str], Passage], Put]
TakeInLog = Callable[[Turn, str, Sequence[Logged], Passage], list[int]]
TakeOut = Callable[[Turn, Record, Passage], bool]
WEEK_MS = 7 * 24 * 3600 * 1000


@instead_of(move._take_out)
def takes_out_what_was_touched(take_out: TakeOut, turn: Turn, record: Record, passage: Passage) -> bool:
    """Removes a row that somebody has claimed, cancelled or replayed since it was exported."""
    row = turn.rows.get(record.ref)
    now = record if row is None else structs.replace(record, state=row.state, fence=row.fence)
    return take_out(turn, structs.replace(now, generation=row.generation if row else 1), passage)


@instead_of(move._take_out)
def ends_what_it_takes_out(take_out: TakeOut, turn: Turn, record: Record, passage: Passage) -> bool:
    """Takes a row out as if it were cancelled: those who wait for its outcome are told of one."""
    row = turn.rows.get(record.ref)
    if row is not None and row.state < State.RUNNING:
        change._cancel(turn, row)
        return take_out(turn, structs.replace(record, state=State.CANCELLED), passage)
    return take_out(turn, record, passage)


@instead_of(move._take_in)
def forgets_what_came(take_in: TakeIn, turn: Turn, exported: Exported, before: frozenset[str], passage: Passage) -> Put:
    """Takes a row in again that has been handled and purged since it came."""
    return take_in(turn, exported, frozenset(), passage)


class RemembersWhatItRefused(MemoryStore):
    """Takes what it once refused for something that came."""

    async def take_in(self, rows: Sequence[Exported], passage: Passage) -> list[Put]:
        puts = await super().take_in(rows, passage)
        came = notes.came(passage.move, [row.record.id for row in rows], frozenset())
        await self.note_put(Note(notes.arrived(passage.source), notes.encode(came)))
        return puts


@instead_of(move._take_in)
def makes_damage_look_sound(
    take_in: TakeIn, turn: Turn, exported: Exported, before: frozenset[str], passage: Passage
) -> Put:
    """Gives what was damaged a checksum that fits."""
    return take_in(turn, structs.replace(exported, sound=True), before, passage)


@instead_of(move._arrive)
def lets_others_pass_who_comes(
    arrive: Callable[[Turn, Row, Exported], None], turn: Turn, row: Row, exported: Exported
) -> None:
    """Forgets that a row was the first of its line."""
    arrive(turn, row, structs.replace(exported, heads=False))


@instead_of(move._held)
def exports_who_stands_behind_what_runs(held: Callable[[Turn, Row], bool], turn: Turn, row: Row) -> bool:
    """Gives away a row whose turn hasn't come, as the one before it still runs."""
    return row.state is State.RUNNING


@instead_of(move._take_in)
def brings_keys_twice(take_in: TakeIn, turn: Turn, exported: Exported, before: frozenset[str], passage: Passage) -> Put:
    """Takes a request in though its key is here."""
    return take_in(turn, structs.replace(exported, dedup=None), before, passage)


class TakesOneLogForAnother(MemoryStore):
    """Says of every log that it has something once one has."""

    async def has_log(self, event: str) -> bool:
        return bool(self.place.log._kept)


@instead_of(move_log.take_in)
def lets_the_past_come_behind_the_present(
    take_in: TakeInLog, turn: Turn, event: str, entries: Sequence[Logged], passage: Passage
) -> list[int]:
    """Takes entries of a log in behind what was published here since."""
    last = turn.place.log.last(event)
    if last is not None:
        name = notes.told(passage.source, event)
        turn.place.notes[name] = KeptNote(notes.encode(notes.Told(last.id.hex())), 1, None)
    return take_in(turn, event, entries, passage)


@instead_of(move_log.take_in)
def goes_on_with_nobody_in_a_later_move(
    take_in: TakeInLog, turn: Turn, event: str, entries: Sequence[Logged], passage: Passage
) -> list[int]:
    """Remembers what came of a log only as long as a move lasts."""
    return take_in(turn, event, entries, structs.replace(passage, source=passage.source + passage.move))


@instead_of(move_log.take_in)
def forgets_who_got_what_came(
    take_in: TakeInLog, turn: Turn, event: str, entries: Sequence[Logged], passage: Passage
) -> list[int]:
    """Takes entries of a log in as if nobody had got them."""
    return take_in(turn, event, [structs.replace(one, receivers=()) for one in entries], passage)


@instead_of(move_log.take_in)
def keeps_what_came_for_a_week(
    take_in: TakeInLog, turn: Turn, event: str, entries: Sequence[Logged], passage: Passage
) -> list[int]:
    """Lets the time of entries of a log begin anew."""
    return take_in(turn, event, [structs.replace(one, until_ms=turn.now_ms + WEEK_MS) for one in entries], passage)


@instead_of(Log.take_in)
def doubles_what_came(take_in: Callable[[Log, str, Logged], int], log: Log, event: str, logged: Logged) -> int:
    """Doesn't know an entry again that comes once more."""
    log._by_id.pop(logged.entry.id, None)
    return take_in(log, event, logged)


@instead_of(move_log.take_out)
def leaves_what_it_takes_out(take_out: object, turn: Turn, entries: Sequence[Logged]) -> None:
    """Leaves entries of a log where they are."""
