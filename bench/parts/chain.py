"""One link of the chain a → b → c → d: a service that works a while, and then asks the next one where it must."""

from typing import Any

from msgspec import Struct

from bench.parts.condition import Condition
from bench.parts.contract import Job
from bench.parts.counting import count_at_the_door
from bench.parts.saying import options
from ringpost import Context, Contract, Operation, Service, run


class A(Contract):
    alone = Operation(Job, Job, effect="read")
    to_b = Operation(Job, Job, effect="read")
    to_c = Operation(Job, Job, effect="read")
    to_d = Operation(Job, Job, effect="read")


class B(Contract):
    alone = Operation(Job, Job, effect="read")
    to_c = Operation(Job, Job, effect="read")
    to_d = Operation(Job, Job, effect="read")


class C(Contract):
    alone = Operation(Job, Job, effect="read")
    to_d = Operation(Job, Job, effect="read")


class D(Contract):
    alone = Operation(Job, Job, effect="read")
    note = Operation(Job)


CONTRACTS: dict[str, type[Contract]] = {"a": A, "b": B, "c": C, "d": D}
NEXT: dict[Operation[Any, Any], Operation[Job, Job]] = {
    A.to_b: B.alone,
    A.to_c: B.to_c,
    A.to_d: B.to_d,
    B.to_c: C.alone,
    B.to_d: C.to_d,
    C.to_d: D.alone,
}


class Options(Struct):
    """`link`: which one it is. `sends`: c sends to d instead of calling it, over the store that both have."""

    link: str
    work_s: float
    sends: bool = False
    store: str | None = None
    concurrency: int = 0  # 0: as it is by default
    spans: bool = False  # note when each handling began and ended


def service(asked: Options, condition: Condition) -> Service:
    """Make the service of a link."""
    contract = CONTRACTS[asked.link]
    made = Service(contract)
    slots: dict[str, Any] = {"concurrency": asked.concurrency} if asked.concurrency else {}
    for operation in contract.__dict__.values():
        if isinstance(operation, Operation) and operation is not D.note:
            made.implements(operation, **slots)(_handler(asked, condition, NEXT.get(operation)))
    if asked.link == "d":

        @made.implements(D.note)
        async def note(job: Job) -> None:
            await condition.work(asked.work_s)

    return made


def _handler(asked: Options, condition: Condition, following: Operation[Job, Job] | None) -> Any:
    async def answer(job: Job, ctx: Context) -> Job:
        await condition.work(asked.work_s)
        if following is None:
            return job
        if asked.sends and following is D.alone:
            await ctx.send(D.note, job)
            return job
        condition.needed += 1
        return await ctx.call(following, job)

    return answer


def main() -> None:
    asked = options(Options)
    condition = Condition()
    condition.noting = asked.spans
    condition.listen()
    count_at_the_door(condition)
    made = service(asked, condition)
    if asked.store is None:
        run(made, http="127.0.0.1:0")
    else:
        run(made, http="127.0.0.1:0", store=asked.store)


if __name__ == "__main__":
    main()
