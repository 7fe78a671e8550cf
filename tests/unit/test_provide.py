"""Parameters by type: what is provided, for how long, in which order it is made and ended."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from ringpost.contract.errors import UsageError
from ringpost.service.inject import Injector, Resources, itself
from ringpost.service.provide import Source, Sources, parameters_of, source_of
from ringpost.service.slots import Slots
from ringpost.service.threads import Threads


@dataclass
class Settings:
    name: str


@dataclass
class Database:
    settings: Settings


@dataclass
class Session:
    database: Database


class Ctx:
    """Stands for the Context, which the injector hands over as it is."""


def sources(resources: list[Any] = [], provides: list[Any] = [], overrides: list[Any] = []) -> Sources:  # noqa: B006
    def read(given: list[Any]) -> list[Source]:
        return [source_of(one) for one in given]

    return Sources("shop", read(resources), read(provides), read(overrides))


class Kit:
    """Runs handlers of one service as a host would."""

    def __init__(self, given: Sources) -> None:
        self.sources = given
        self.resources = Resources([given])
        self.threads = Threads(2)

    async def __aenter__(self) -> "Kit":
        await self.resources.open()
        return self

    async def __aexit__(self, *exc: object) -> None:
        self.threads.close()
        await self.resources.close()

    async def run(self, function: Callable[..., Any], request: object = None) -> object:
        injector = Injector(self.sources, self.resources.of(self.sources), self.threads, {Ctx: itself})
        in_loop = asyncio.iscoroutinefunction(function)
        invoke = injector.invoke(function, in_loop, parameters_of(function, skip=1), Slots(2))
        return await invoke(Ctx(), request)


def settings() -> Settings:
    return Settings("test")


async def database(settings: Settings) -> Database:
    return Database(settings)


def session(database: Database) -> Iterator[Session]:
    yield Session(database)


async def handler(request: object, session: Session, settings: Settings) -> object:
    return session, settings


async def test_providers_may_depend_on_each_other() -> None:
    async with Kit(sources([database, settings], [session])) as kit:
        made: Any = await kit.run(handler)
    assert made == (Session(Database(Settings("test"))), Settings("test"))


async def test_the_four_shapes_provide_what_they_return_or_yield() -> None:
    def plain() -> int:
        return 1

    async def asynchronous() -> str:
        return "2"

    def generator() -> Iterator[float]:
        yield 3.0

    async def async_generator() -> AsyncIterator[bytes]:
        yield b"4"

    async def take(request: object, a: int, b: str, c: float, d: bytes) -> object:
        return a, b, c, d

    async with Kit(sources(provides=[plain, asynchronous, generator, async_generator])) as kit:
        assert await kit.run(take) == (1, "2", 3.0, b"4")


async def test_a_class_provides_itself() -> None:
    class Clock:
        def __init__(self, settings: Settings) -> None:
            self.settings = settings

    async def take(request: object, clock: Clock) -> str:
        return clock.settings.name

    async with Kit(sources([settings], [Clock])) as kit:
        assert await kit.run(take) == "test"


async def test_what_is_provided_twice_in_one_handling_is_made_once() -> None:
    made: list[int] = []

    def counter() -> list[int]:
        made.append(1)
        return made

    def left(shared: list[int]) -> str:
        return "left"

    async def take(request: object, shared: list[int], one: str) -> object:
        return shared, one

    async with Kit(sources(provides=[counter, left])) as kit:
        await kit.run(take)
        assert len(made) == 1
        await kit.run(take)
    assert len(made) == 2


async def test_resources_are_made_once_and_ended_last_made_first() -> None:
    happened: list[str] = []

    async def first() -> AsyncIterator[int]:
        happened.append("int made")
        yield 1
        happened.append("int ended")

    def second(one: int) -> Iterator[str]:
        happened.append("str made")
        yield "2"
        happened.append("str ended")

    async def take(request: object, word: str) -> object:
        return word

    async with Kit(sources([second, first])) as kit:
        assert await kit.run(take) == await kit.run(take) == "2"
    assert happened == ["int made", "str made", "str ended", "int ended"]


async def test_resources_are_opened_and_closed_in_one_task() -> None:
    tasks: list[object] = []

    async def resource() -> AsyncIterator[int]:
        tasks.append(asyncio.current_task())
        yield 1
        tasks.append(asyncio.current_task())

    given = Resources([sources([resource])])
    await asyncio.create_task(given.open())
    await asyncio.create_task(given.close())
    assert tasks[0] is tasks[1]


async def test_a_resource_that_fails_ends_those_before_it() -> None:
    happened: list[str] = []

    def first() -> Iterator[int]:
        try:
            yield 1
        except ConnectionError:
            happened.append("told")
            raise

    def second(one: int) -> str:
        raise ConnectionError("no database")

    with pytest.raises(ConnectionError, match="no database"):
        await Resources([sources([first, second])]).open()
    assert happened == ["told"]


async def test_what_stands_after_the_yield_runs_when_the_handler_has_ended() -> None:
    happened: list[str] = []

    def provider() -> Iterator[int]:
        yield 1
        happened.append("ended")

    async def take(request: object, one: int) -> None:
        happened.append("handled")

    async with Kit(sources(provides=[provider])) as kit:
        await kit.run(take)
    assert happened == ["handled", "ended"]


async def test_a_provider_sees_the_failure_and_cannot_swallow_it() -> None:
    happened: list[object] = []

    async def provider() -> AsyncIterator[int]:
        try:
            yield 1
        except ValueError as error:
            happened.append(error)

    async def take(request: object, one: int) -> None:
        raise ValueError("no")

    async with Kit(sources(provides=[provider])) as kit:
        with pytest.raises(ValueError, match="no"):
            await kit.run(take)
    assert len(happened) == 1


async def test_a_provider_that_fails_at_its_end_fails_the_handling() -> None:
    def provider() -> Iterator[int]:
        yield 1
        raise OSError("could not commit")

    async def take(request: object, one: int) -> str:
        return "done"

    async with Kit(sources(provides=[provider])) as kit:
        with pytest.raises(OSError, match="could not commit"):
            await kit.run(take)


async def test_a_def_handler_runs_in_a_thread_with_what_it_needs() -> None:
    import threading

    def take(request: object, session: Session) -> tuple[object, str]:
        return session, threading.current_thread().name

    async with Kit(sources([settings, database], [session])) as kit:
        made, thread = await kit.run(take)  # type: ignore[misc]
    assert isinstance(made, Session)
    assert thread.startswith("ringpost-handler")


async def test_parameters_with_a_default_keep_it_where_nothing_provides_their_type() -> None:
    async def take(request: object, known: int, unknown: complex = 1j, *, also: int, plain: Any = "p") -> object:
        return known, unknown, also, plain

    def one() -> int:
        return 1

    async with Kit(sources(provides=[one])) as kit:
        assert await kit.run(take) == (1, 1j, 1, "p")


async def test_a_test_overrides_what_a_service_provides() -> None:
    def other_settings() -> Settings:
        return Settings("override")

    async def take(request: object, session: Session) -> str:
        return session.database.settings.name

    async with Kit(sources([settings, database], [session], overrides=[other_settings])) as kit:
        assert await kit.run(take) == "override"


async def test_the_usual_signatures_are_called_without_anything_in_between() -> None:
    async def alone(request: object) -> object:
        return request

    async def with_context(request: object, ctx: Ctx) -> object:
        return request, type(ctx)

    async with Kit(sources()) as kit:
        assert await kit.run(alone, 1) == 1
        assert await kit.run(with_context, 1) == (1, Ctx)


def refusal(declare: Callable[[], object]) -> str:
    with pytest.raises(UsageError) as caught:
        declare()
    return str(caught.value)


def test_an_unprovided_parameter_is_named_with_what_to_do() -> None:
    async def take(request: object, session: Session) -> None: ...

    given = sources([settings])
    said = refusal(lambda: given.provide_order(parameters_of(take, skip=1), frozenset(), "shop.take"))
    assert "Nothing provides the parameter session: Session of shop.take" in said
    assert "provides=" in said


def test_a_narrower_type_that_is_provided_is_pointed_out() -> None:
    class Special(Session): ...

    def special() -> Special: ...

    async def take(request: object, session: Session) -> None: ...

    given = sources(provides=[special])
    said = refusal(lambda: given.provide_order(parameters_of(take, skip=1), frozenset(), "take"))
    assert "Special is provided: annotate its provider `-> Session`" in said


def test_a_resource_cannot_depend_on_what_is_made_per_message() -> None:
    said = refusal(lambda: sources([database], [settings]).resource_order())
    assert "which lives as long as the process" in said


def test_providers_in_a_circle_are_refused() -> None:
    def chicken(egg: str) -> int: ...
    def egg(chicken: int) -> str: ...

    assert "in a circle: int → str → int" in refusal(lambda: sources([chicken, egg]).resource_order())


def test_a_type_is_provided_once() -> None:
    def other() -> Settings: ...

    assert "provided twice" in refusal(lambda: sources([settings], [other]))


@pytest.mark.parametrize("wrong", [lambda: 1, 3])
def test_what_does_not_say_what_it_provides_is_refused(wrong: Any) -> None:
    refusal(lambda: source_of(wrong))


def test_a_parameter_without_type_is_refused() -> None:
    def provider(anything) -> int: ...  # type: ignore[no-untyped-def]

    assert "has no type" in refusal(lambda: source_of(provider))


def test_a_generator_must_say_that_it_is_one() -> None:
    def provider() -> int:  # type: ignore[misc]
        yield 1

    assert "Iterator[…]" in refusal(lambda: source_of(provider))


async def test_a_thread_that_is_given_up_costs_a_slot_until_it_ends() -> None:
    import threading

    lost: list[str] = []
    release = threading.Event()
    entered = asyncio.Event()
    loop = asyncio.get_running_loop()
    threads, slots = Threads(2, lost.append), Slots(2, "shop.slow")

    def slow() -> None:
        loop.call_soon_threadsafe(entered.set)
        release.wait()

    assert slots.take()
    running = asyncio.create_task(threads.run(slots, slow))
    await entered.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    slots.give()
    assert (slots.free, slots.lost, lost) == (1, 1, ["shop.slow"])
    recovered = asyncio.Event()
    slots.freed = recovered.set
    slots.used += 1  # full, so that it is told when one is free again
    release.set()
    await recovered.wait()
    assert (slots.free, slots.lost) == (1, 0)
    threads.close()
