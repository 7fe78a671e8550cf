"""A store on a disk that becomes full and empty again: `full_disk.py FOLDER`, of a small file system of its own.

Prints what happened as one line of JSON.
"""

import asyncio
import json
import logging
import os
import sys
import time
from pathlib import Path

from ringpost.core.message import Message, Settlement, State
from ringpost.settings import Settings
from ringpost.store.sqlite import disk as sqlite_disk
from ringpost.store.sqlite.store import SqliteStore

QUEUE = "mail.welcome"
BODY = bytes(100_000)
STAGED = bytes(450_000)  # fifty of them are more than a log that is used again has room for
AGAIN_S_MAX = 5.0
clock_s = time.monotonic


async def put_until_refused(store: SqliteStore, number: int) -> int:
    """Put until there is no room for more; gives the next number."""
    while True:
        lot = [Message(one.to_bytes(16, "big"), QUEUE, BODY) for one in range(number, number + 20)]
        refused = [put.refused for put in await store.put(lot)]
        number += refused.count("")
        if "disk" in refused:
            return number


async def put_again(store: SqliteStore, number: int) -> float:
    """Try until it is taken; gives how long that took."""
    began_s = clock_s()
    while (await store.put([Message(number.to_bytes(16, "big"), QUEUE, b"{}")]))[0].refused:
        assert clock_s() - began_s < AGAIN_S_MAX
        await asyncio.sleep(0.05)
    return clock_s() - began_s


def fill(path: Path) -> None:
    """Take all the room that is left."""
    file = os.open(path, os.O_CREAT | os.O_WRONLY)
    for size in (1 << 20, 4096, 1):
        try:
            while os.write(file, bytes(size)) == size:
                pass
        except OSError:
            pass
    os.close(file)


async def main(folder: Path) -> None:
    logging.disable(logging.CRITICAL)
    store = SqliteStore(folder / "a.db", Settings())
    await store.open(create=True)
    ballast = folder / "a.db.ballast"
    had_ballast = ballast.exists()
    kept = await put_until_refused(store, 1) - 1
    claimed = (await store.claim({QUEUE: 50}, 1, 60.0)).deliveries
    fill(folder / "filler")
    settled = []
    for one in claimed:  # each with what it stages, on a disk without a byte of room
        staged = [Message(b"staged" + one.id[6:], QUEUE, STAGED)]
        settled += await store.settle([Settlement(one, State.SUCCEEDED, staged=staged)])
    gave_ballast = had_ballast and not ballast.exists()
    (folder / "filler").unlink()
    sqlite_disk.FREE_BYTES_MIN = 1 << 20  # as if the operator had made much room: less is asked for
    again_s = await put_again(store, 10**6)
    rows = sum(depth.ready + depth.running for depth in await store.depths())
    failed = store.failed is not None
    await store.close()
    print(
        json.dumps(
            {
                "kept": kept,
                "settled": settled.count(True),
                "claimed": len(claimed),
                "rows": rows,
                "had_ballast": had_ballast,
                "gave_ballast": gave_ballast,
                "again_s": again_s,
                "failed": failed,
            }
        )
    )


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
