# mypy: ignore-errors
"""Echo clients of the peers: `call_client.py OPTIONS httpx|aiohttp|grpc`."""

import asyncio
import sys

import msgspec
from bench.parts.load import Options, closed_loop
from bench.parts.saying import options, say


class User(msgspec.Struct):
    user_id: int
    email: str
    plan: str
    ts: float


DECODE, ENCODE = msgspec.json.Decoder(User).decode, msgspec.json.Encoder().encode
USER = User(123_456, "user123456@example.com", "premium", 1_700_000_000.123456)
HEADERS = {"content-type": "application/json"}


async def httpx_client(asked):
    import httpx

    limits = httpx.Limits(max_connections=asked.at_once, max_keepalive_connections=asked.at_once)
    async with httpx.AsyncClient(limits=limits) as client:

        async def call():
            answer = await client.post(f"{asked.url}/echo", content=ENCODE(USER), headers=HEADERS)
            assert DECODE(answer.content).user_id == 123_456

        return await closed_loop(call, asked)


async def aiohttp_client(asked):
    import aiohttp

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as client:

        async def call():
            async with client.post(f"{asked.url}/echo", data=ENCODE(USER), headers=HEADERS) as answer:
                assert DECODE(await answer.read()).user_id == 123_456

        return await closed_loop(call, asked)


async def grpc_client(asked):
    import grpc

    async with grpc.aio.insecure_channel(asked.url) as channel:
        echo = channel.unary_unary("/bench.Bench/Echo", request_serializer=ENCODE, response_deserializer=DECODE)

        async def call():
            assert (await echo(USER)).user_id == 123_456

        return await closed_loop(call, asked)


async def main(client, asked):
    say(measured=await client(asked))


if __name__ == "__main__":
    clients = {"httpx": httpx_client, "aiohttp": aiohttp_client, "grpc": grpc_client}
    work = main(clients[sys.argv[2]], options(Options))
    if sys.argv[2] == "grpc":
        asyncio.run(work)
    else:
        import uvloop

        uvloop.run(work)
