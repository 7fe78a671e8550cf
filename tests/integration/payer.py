"""A process whose handlers write in their transactions; it says `ready`, and what it begins, until it is ended.

usage: payer.py STORE LEASE_S [SECONDS that `slow` waits before it writes]
"""

import asyncio
import sys

from ringpost import Contract, Operation, Service, Transaction, serve


class Books(Contract):
    write = Operation(int)
    slow = Operation(int)
    noted = Operation(int)


class Tables:
    """The books' tables."""


async def tables(tx: Transaction) -> Tables:
    await tx.execute("CREATE TABLE IF NOT EXISTS entry (number INTEGER, how TEXT)")
    return Tables()


books = Service(Books, resources=[tables])


@books.implements(Books.write)
async def write(number: int, tx: Transaction) -> None:
    if number % 10:
        tx.defer("INSERT INTO entry VALUES (:number, 'defer')", {"number": number})
    else:
        await tx.execute("INSERT INTO entry VALUES (:number, 'execute')", {"number": number})


@books.implements(Books.slow)
async def slow(number: int, tx: Transaction) -> None:
    print(f"began {number}", flush=True)
    if len(sys.argv) > 3:
        await asyncio.sleep(float(sys.argv[3]))
    await tx.execute("INSERT INTO entry VALUES (:number, 'slow')", {"number": number})
    print(f"wrote {number}", flush=True)


@books.implements(Books.noted)
async def noted(number: int) -> None: ...


async def main() -> None:
    async with serve(books, store=sys.argv[1], http=None):
        print("ready", flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
