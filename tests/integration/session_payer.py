"""A process whose handler writes through an AsyncSession; it says `ready`, and dies at a point of its first handling.

usage: session_payer.py STORE PORT [handler | settled | committed | between]

`between` is a broken twin: it commits what the session wrote, and would settle in a commit of its own after that.
"""

import asyncio
import os
import signal
import sys
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

import ringpost.sqlalchemy
from ringpost import Contract, Operation, Service, serve
from ringpost.store.postgres.lent import JoinedEnd


class Ledger(Contract):
    write = Operation(int, int)


def ledger(store: str, point: str) -> Service:
    engine = create_async_engine(store.replace("postgresql://", "postgresql+asyncpg://", 1))
    service = Service(Ledger, provides=[ringpost.sqlalchemy.session(engine)])

    @service.implements(Ledger.write)
    async def write(number: int, session: AsyncSession) -> int:
        await session.execute(text("INSERT INTO entry VALUES (:number)"), {"number": number})
        if point == "handler":
            die()
        return number

    return service


def arm(point: str) -> None:
    """Have the process die once the end of a handling is written, or once it is committed."""
    settle = JoinedEnd.settle

    async def settled(self: JoinedEnd, session: object) -> bool:
        await settle(self, session)
        return die()

    def committed(self: JoinedEnd) -> None:
        die()

    async def between(self: Any, *end: object) -> bool:
        self._phase = "committing"
        await self.session.commit()
        return die()

    armed: Any = JoinedEnd
    if point == "between":
        ringpost.sqlalchemy._Handling._commit = between  # type: ignore[method-assign]
    if point == "settled":
        armed.settle = settled
    if point == "committed":
        armed.committed = committed


def die() -> bool:
    os.kill(os.getpid(), signal.SIGKILL)
    return False


async def main(store: str, port: str, point: str = "") -> None:
    arm(point)
    async with serve(ledger(store, point), store=store, http=f"127.0.0.1:{port}"):
        print("ready", flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
