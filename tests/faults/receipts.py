"""From a disk's trace: whether what a receipt is about had been synced when the receipt was given.

The way is followed through the log itself: the frame that holds the message's id, the frame that ends its transaction,
the sync of the log that completed after it, the receipt.
"""

import re
from collections.abc import Sequence
from typing import Any

from disk import Sync, Write
from life import Kept
from msgspec import Struct

FRAME_HEADER_BYTES = 24
MARK = b"RcPt"  # the ids of messages whose receipts are looked at begin with it
_IDS = re.compile(MARK + rb".{12}", re.DOTALL)


class Covered(Struct):
    """How receipts and syncs came."""

    receipts: int = 0
    early: int = 0  # given before the sync
    syncs: int = 0


def covered(trace: Sequence[Any]) -> Covered:
    """Look at every receipt in the trace of one writer."""
    found = Covered()
    written: set[bytes] = set()  # by a transaction that has not ended
    committed: set[bytes] = set()  # and not synced
    durable: set[bytes] = set()
    ends = False
    for step in trace:
        match step:
            case Write(path, _, data) if path.endswith("-wal") and len(data) == FRAME_HEADER_BYTES:
                ends = data[4:8] != bytes(4)  # the size of the file after a commit, 0 in every other frame
            case Write(path, _, data) if path.endswith("-wal"):
                written.update(_IDS.findall(data))
                if ends:
                    committed |= written
                    written = set()
            case Sync(path) if path.endswith("-wal"):
                found.syncs += 1
                durable |= committed
                committed = set()
            case Kept(id):
                found.receipts += 1
                found.early += id not in durable
            case _:
                pass
    return found
