"""Call an operation over HTTP, as a program does."""

import uvloop

from bench.parts.contract import Echo, Look, job
from bench.parts.load import Options, closed_loop
from bench.parts.saying import options, say
from ringpost import Client


async def main(asked: Options) -> None:
    request = job(23_456)
    operation = Look.look if asked.reads else Echo.echo
    async with Client(addresses={"echo": asked.url, "look": asked.url}) as client:

        async def call() -> None:
            reply = await client.call(operation, request)
            assert reply.user_id == 123_456

        say(measured=await closed_loop(call, asked))


if __name__ == "__main__":
    uvloop.run(main(options(Options)))
