"""Who publishes events that are kept and who reads them from the beginning: `log_town.py publisher FIRST`, `reader`."""

import asyncio
import os
import sys

from msgspec import Struct
from town import say

from ringpost import Client, Context, Contract, Event, Service, run
from ringpost.service import catching_up

KEYS = 5


class Step(Struct):
    number: int

    @property
    def key(self) -> str:
        return str(self.number % KEYS)


class Road(Contract):
    went = Event(Step, keep=3600, ordering_key=lambda step: step.key)


reader = Service(name="reader")


@reader.on(Road.went, from_beginning=True)
async def went(step: Step, ctx: Context) -> None:
    say(read=step.number, id=ctx.message_id, attempt=ctx.attempt)


async def publish(first: int) -> None:
    """Publish without a pause until nobody holds standard input open any more."""
    reading = asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    async with Client(store=os.environ["RINGPOST_STORE"]) as client:
        number = first
        while not reading.done():
            receipt = await client.publish(Road.went, Step(number))
            say(told=number, id=receipt.id)
            number += 1
            await asyncio.sleep(0.005)


if __name__ == "__main__":
    if sys.argv[1] == "publisher":
        asyncio.run(publish(int(sys.argv[2])))
    else:
        catching_up.STEP_ROWS = 20  # so that kills come in the middle of it
        run(reader)
