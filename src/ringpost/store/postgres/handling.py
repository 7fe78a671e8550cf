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
    if settlement is None and staged:
        await put.put_all(turn, staged, None)
    await turn.put_letters(put.put_all)
    if turn.missed:
        await read.count_gaps(turn)
    return True


def _messages(settlement: Settlement | None, staged: Sequence[Message]) -> Sequence[Message]:
    return staged if settlement is None else settlement.staged
