"""Which dead letters are meant: by id, or all of a queue; what can't be meant is refused before anything is changed."""

from collections.abc import Sequence

from ringpost.cli.stores import did_you_mean
from ringpost.contract.errors import StateError, UsageError
from ringpost.core import ids
from ringpost.core.life import ticket_state
from ringpost.core.message import Record, State
from ringpost.store.port import Store


def check_asked(given: Sequence[str], queue: str | None, every: bool, command: str) -> None:
    """Refuse what names both letters and queues, or neither."""
    if given and (every or queue is not None):
        raise UsageError("give ids, or --all with or without --queue; not both.")
    if not given and not every:
        named = f"ringpost dead {command} --queue {queue} --all"
        raise UsageError(f"say which: {named if queue else f'ringpost dead {command} ID, or --queue Q --all'}.")


async def check_queue(store: Store, queue: str) -> None:
    """Refuse a queue that the store has never had."""
    known = [depth.queue for depth in await store.depths()]
    if queue not in known:
        raise UsageError(f"there is no queue {queue} here. {did_you_mean(queue, known) if known else ''}".rstrip())


def parsed(text: str) -> bytes:
    """Read an id."""
    try:
        return ids.parse(text)
    except ValueError:
        raise UsageError(f"{text[:80]!r} is no message id; `ringpost dead list` shows them.") from None


async def dead_ones(store: Store, texts: Sequence[str], *, bodies: bool = False) -> list[Record]:
    """Give the dead letters with these ids; all are looked at before any is changed."""
    return [await dead_one(store, id, bodies=bodies) for id in [parsed(text) for text in texts]]


async def dead_one(store: Store, id: bytes, *, bodies: bool = False) -> Record:
    """Give the dead letter with an id. Raises StateError where it is none."""
    (record,) = await store.read([id], bodies=bodies)
    if record is None:
        raise StateError(f"There is no message {ids.text(id)} in this store; `ringpost dead list` shows the dead ones.")
    if record.state is not State.DEAD:
        raise StateError(
            f"{ids.text(id)} is no dead letter: it is {ticket_state(record)}. See `ringpost ticket {ids.text(id)}`."
        )
    return record
