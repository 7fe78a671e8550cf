"""The end of one handling as statements of one transaction, whoever began it."""

from collections.abc import Sequence

from ringpost.core.message import Message, Settlement
from ringpost.store.postgres import put, read, settle
from ringpost.store.postgres.turn import Turn


def queues_of(settlement: Settlement | None, staged: Sequence[Message]) -> set[str]:
    """Give the queues that have to be known by their numbers."""
    names = {message.queue for message in _messages(settlement, staged) if not message.event}
    return names if settlement is None else names | {settlement.delivery.queue}


async def end(turn: Turn, settlement: Settlement | None, staged: Sequence[Message]) -> bool:
    """Settle under the fence, put what was staged, and tell others; False where the fence was lost.

    Nothing is committed. None as settlement: a call without key, of which no row tells.
    """
    if settlement is not None and not (await settle.settle_all(turn, [settlement]))[0]:
        return False
    if settlement is None:
        await _put(turn, staged)
    await _tell(turn)
    return True


async def end_and_commit(turn: Turn, settlement: Settlement | None, staged: Sequence[Message]) -> bool:
    """Do the same and commit, in as few round trips as can be; False where the fence was lost: then nothing is
    committed."""
    if settlement is None or not settle.lone(settlement):
        if not await end(turn, settlement, staged):
            return False
        await turn.db.commit()
        return True
    await _put(turn, settlement.staged)
    await _tell(turn)
    return await settle.settle_and_commit(turn, settlement)


async def _put(turn: Turn, staged: Sequence[Message]) -> None:
    if staged:
        await put.put_all(turn, staged, None)


async def _tell(turn: Turn) -> None:
    """Put what tells others of ends, and count what nobody got."""
    await turn.put_letters(put.put_all)
    if turn.missed:
        await read.count_gaps(turn)


def _messages(settlement: Settlement | None, staged: Sequence[Message]) -> Sequence[Message]:
    return staged if settlement is None else settlement.staged
