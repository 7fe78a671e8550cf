"""A worker or a server, started the way `ringpost run` starts one."""

import time

from msgspec import Struct

from bench.parts.contract import After, Bench, Echo, Job, Lines, Look
from bench.parts.saying import options, say
from ringpost import Context, Service, Transaction, run


class Options(Struct):
    """`handler`: nothing, burn, stage, execute and defer (write a row), line, late (tells how old messages were), echo,
    look."""

    handler: str
    store: str | None = None
    http: str | None = None
    slots: int = 200
    workers: int = 1
    burn_us: float = 0.0
    expected: int = 0


class Table:
    """Where handlers write a row each; it is there once a service has started."""


INSERT = "INSERT INTO bench_done VALUES ($1)"


async def table(tx: Transaction) -> Table:
    await tx.execute("CREATE TABLE IF NOT EXISTS bench_done (user_id INTEGER)")
    return Table()


def service(asked: Options) -> Service:
    """Make the service whose handler is measured."""
    contract = {"line": Lines, "echo": Echo, "look": Look}.get(asked.handler, Bench)
    bench = Service(contract, resources=[table] if asked.handler in ("execute", "defer") else [])
    began = False

    def begin() -> None:
        nonlocal began
        if not began:
            began = True
            say(began=time.time(), cpu_s=time.process_time())

    match asked.handler:
        case "nothing":

            @bench.implements(Bench.work, concurrency=asked.slots)
            async def nothing(job: Job) -> None:
                begin()

        case "line":

            @bench.implements(Lines.work, concurrency=asked.slots)
            async def line(job: Job) -> None:
                begin()

        case "burn":
            burn_s = asked.burn_us / 1e6

            @bench.implements(Bench.work, concurrency=asked.slots)
            async def burn(job: Job) -> None:
                begin()
                until = time.perf_counter() + burn_s
                while time.perf_counter() < until:
                    pass

        case "stage":

            @bench.implements(Bench.work, concurrency=asked.slots)
            async def stage(job: Job, ctx: Context) -> None:
                begin()
                await ctx.send(After.work, job)

        case "execute":

            @bench.implements(Bench.work, concurrency=asked.slots)
            async def execute(job: Job, tx: Transaction) -> None:
                begin()
                await tx.execute(INSERT, (job.user_id,))

        case "defer":

            @bench.implements(Bench.work, concurrency=asked.slots)
            async def defer(job: Job, tx: Transaction) -> None:
                begin()
                tx.defer(INSERT, (job.user_id,))

        case "late":
            ages_ms: list[float] = []

            @bench.implements(Bench.work, concurrency=asked.slots)
            async def late(job: Job) -> None:
                begin()
                if job.sent_at:
                    ages_ms.append((time.time() - job.sent_at) * 1000)
                    if len(ages_ms) == asked.expected:
                        say(ages_ms=ages_ms)

        case "look":

            @bench.implements(Look.look, concurrency=asked.slots)
            async def look(job: Job) -> Job:
                return job

        case _:

            @bench.implements(Echo.echo, concurrency=asked.slots)
            async def echo(job: Job) -> Job:
                return job

    return bench


def main() -> None:
    asked = options(Options)
    made = service(asked)
    if asked.store is None:
        run(made, http=asked.http, workers=asked.workers)
    else:
        run(made, store=asked.store, http=asked.http, workers=asked.workers)


if __name__ == "__main__":
    main()
