# mypy: ignore-errors
"""One link of the chain, plainly: FastAPI, and one httpx client with its own defaults. `chain_server.py OPTIONS`."""

import asyncio
import socket

import httpx
import uvicorn
from bench.parts.condition import Condition
from bench.parts.saying import options, say
from fastapi import FastAPI, HTTPException
from msgspec import Struct
from pydantic import BaseModel

# The paths of each link → the path at the next one.
LINKS = {
    "a": {"/a/alone": None, "/a/to_b": "/b/alone", "/a/to_c": "/b/to_c", "/a/to_d": "/b/to_d"},
    "b": {"/b/alone": None, "/b/to_c": "/c/alone", "/b/to_d": "/c/to_d"},
    "c": {"/c/alone": None, "/c/to_d": "/d/alone"},
    "d": {"/d/alone": None},
}


class Options(Struct):
    """`tries`: how often a call is tried; `connections`: what the handlers share, as a pool to a database; 0: none."""

    link: str
    work_s: float
    next_url: str = ""
    tries: int = 1
    connections: int = 0


class User(BaseModel):
    user_id: int
    email: str
    plan: str
    sent_at: float


def application(asked, condition):
    app = FastAPI()
    client = httpx.AsyncClient(base_url=asked.next_url)
    pool = asyncio.Semaphore(asked.connections or 1_000_000)

    def route(path, following):
        @app.post(path)
        async def answer(user: User) -> User:
            async with pool:
                await condition.work(asked.work_s)
            if following is None:
                return user
            condition.needed += 1
            return await called(following, user)

    async def called(path, user):
        for _ in range(asked.tries):
            try:
                said = await client.post(path, json=user.model_dump())
                said.raise_for_status()
                return User.model_validate_json(said.content)
            except httpx.HTTPError as error:
                failed = error
        raise HTTPException(502) from failed

    for path, following in LINKS[asked.link].items():
        route(path, following)

    async def counted(scope, receive, send):
        if scope["type"] == "http":
            condition.came(scope["path"])
        await app(scope, receive, send)

    return counted


def main():
    asked = options(Options)
    condition = Condition()
    condition.listen()
    listener = socket.create_server(("127.0.0.1", 0), backlog=2048)
    config = uvicorn.Config(
        application(asked, condition), loop="uvloop", http="httptools", access_log=False, log_level="error"
    )
    say(url=f"http://127.0.0.1:{listener.getsockname()[1]}")
    uvicorn.Server(config).run(sockets=[listener])


if __name__ == "__main__":
    main()
