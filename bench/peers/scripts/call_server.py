# mypy: ignore-errors
"""Echo servers of the peers: `call_server.py fastapi|aiohttp|grpc`. Each decodes, validates and encodes."""

import asyncio
import socket
import sys

import msgspec
from bench.parts.saying import say


class User(msgspec.Struct):
    user_id: int
    email: str
    plan: str
    ts: float


DECODE, ENCODE = msgspec.json.Decoder(User).decode, msgspec.json.Encoder().encode


def listener():
    made = socket.create_server(("127.0.0.1", 0), backlog=1024)
    return made, made.getsockname()[1]


def fastapi():
    import uvicorn
    from fastapi import FastAPI
    from pydantic import BaseModel

    class PUser(BaseModel):
        user_id: int
        email: str
        plan: str
        ts: float

    app = FastAPI()

    @app.post("/echo")
    async def echo(user: PUser) -> PUser:
        return user

    made, port = listener()
    config = uvicorn.Config(app, loop="uvloop", http="httptools", access_log=False, log_level="error")
    say(url=f"http://127.0.0.1:{port}")
    uvicorn.Server(config).run(sockets=[made])


async def aiohttp():
    from aiohttp import web

    async def echo(request):
        user = DECODE(await request.read())
        return web.Response(body=ENCODE(user), content_type="application/json")

    app = web.Application()
    app.router.add_post("/echo", echo)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    made, port = listener()
    await web.SockSite(runner, made).start()
    say(url=f"http://127.0.0.1:{port}")
    await asyncio.Event().wait()


async def grpc_aio():
    import grpc

    async def echo(user, context):
        return user

    handler = grpc.unary_unary_rpc_method_handler(echo, request_deserializer=DECODE, response_serializer=ENCODE)
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("bench.Bench", {"Echo": handler}),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    say(url=f"127.0.0.1:{port}")
    await server.wait_for_termination()


if __name__ == "__main__":
    if sys.argv[1] == "fastapi":
        fastapi()
    elif sys.argv[1] == "aiohttp":
        import uvloop

        uvloop.run(aiohttp())
    else:
        asyncio.run(grpc_aio())
