"""The same door as an ASGI application under uvicorn."""

import socket

import uvicorn

from bench.parts.contract import Echo, Job
from bench.parts.saying import say
from ringpost import Service, asgi


def main() -> None:
    door = Service(Echo)

    @door.implements(Echo.echo, concurrency=200)
    async def echo(job: Job) -> Job:
        return job

    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(
        asgi(door), loop="uvloop", http="httptools", access_log=False, log_level="error", lifespan="on"
    )
    say(url=f"http://127.0.0.1:{listener.getsockname()[1]}")
    uvicorn.Server(config).run(sockets=[listener])


if __name__ == "__main__":
    main()
