"""What a service refuses at the line that declares it, and what it keeps of what it takes."""

from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypedDict

import pytest

from ringpost.contract.contract import Contract
from ringpost.contract.errors import UsageError
from ringpost.contract.operation import Event, Operation
from ringpost.contract.outcome import DeadLetter
from ringpost.core.retry import Retry
from ringpost.service.assembly import assembled
from ringpost.service.context import Context
from ringpost.service.schedule import Tick
from ringpost.service.service import Service, unimplemented


@dataclass
class Order:
    number: int


@dataclass
class Receipt:
    number: int


class Shop(Contract, name="shop_declaring"):
    buy = Operation(Order, Receipt)
    bought = Event(Order)


class Other(Contract, name="other_declaring"):
    ask = Operation(None, int)


def refusal(declare: Callable[[], object]) -> str:
    with pytest.raises(UsageError) as caught:
        declare()
    return str(caught.value)


async def test_a_handler_comes_back_unchanged_and_has_the_queue_of_its_operation() -> None:
    shop = Service(Shop)

    @shop.implements(Shop.buy, concurrency=3, max_run=2, finish=True, halt=True)
    async def buy(order: Order) -> Receipt:
        return Receipt(order.number)

    assert await buy(Order(1)) == Receipt(1)
    handler = shop.handlers["shop_declaring.buy"]
    assert (handler.service, handler.name, handler.work) == ("shop_declaring", "shop_declaring.buy", "operation")
    assert (handler.concurrency, handler.max_run_s, handler.finish, handler.halt) == (3, 2.0, True, True)
    assert handler.is_async


def test_queues_of_events_schedules_and_failures_carry_the_service_name() -> None:
    service = Service(name="analytics")

    @service.on(Shop.bought)
    def count(order: Order) -> None: ...

    @service.on(Shop.bought, name="again")
    async def count_again(order: Order) -> None: ...

    @service.schedule("0 3 * * *", tz="Europe/Berlin")
    async def nightly(tick: Tick) -> None: ...

    @service.schedule(every=60, name="minutes")
    async def whatever(tick: Tick) -> None: ...

    @service.on_failure
    async def failed(letter: DeadLetter) -> None: ...

    assert list(service.handlers) == [
        "analytics.on.shop_declaring.bought",
        "analytics.on.shop_declaring.bought.again",
        "analytics.schedule.nightly",
        "analytics.schedule.minutes",
        "analytics.on_failure",
    ]
    assert service.handlers["analytics.on.shop_declaring.bought"].concurrency == 8
    assert service.handlers["analytics.on.shop_declaring.bought.again"].concurrency == 128


def test_retry_rules_are_kept_by_class_with_one_for_everything() -> None:
    service = Service(Shop)

    @service.implements(Shop.buy, retry={ValueError: Retry(attempts=3)})
    async def buy(order: Order) -> Receipt: ...

    rules = service.handlers["shop_declaring.buy"].retry
    assert rules == {ValueError: Retry(attempts=3), Exception: Retry()}


async def _authenticate(headers: object) -> None: ...


REFUSED: list[tuple[str, Callable[[], object], str]] = [
    ("no name", lambda: Service(), "needs a name"),
    ("a bad name", lambda: Service(name="My Service"), "lower-case"),
    ("an instance instead of a contract", lambda: Service(Order), "takes contracts"),  # type: ignore[arg-type]
    ("an event", lambda: Service(Shop).implements(Shop.bought), "Use on"),  # type: ignore[arg-type]
    ("on with an operation", lambda: Service(name="a").on(Shop.buy), "Use implements"),  # type: ignore[arg-type]
    ("a class", lambda: Service(Shop).implements(Shop), "takes an operation"),  # type: ignore[arg-type]
    ("another contract's", lambda: Service(Shop).implements(Other.ask), "belongs to none of the contracts"),
    ("limit", lambda: Service(Shop).implements(Shop.buy, limit=3), "isn't in this version"),
    (
        "limiter",
        lambda: Service(Shop).implements(Shop.buy, limiter="vegas"),
        "limiter is aimd, gradient and fixed, not 'vegas'",
    ),
    ("its limiter", lambda: Service(Shop, limiter="none"), "not 'none'"),
    ("call_queue -1", lambda: Service(Shop).implements(Shop.buy, call_queue=-1), "call_queue is a whole number"),
    ("its call_queue", lambda: Service(Shop, call_queue=True), "call_queue is a whole number"),
    ("concurrency 0", lambda: Service(Shop).implements(Shop.buy, concurrency=0), "concurrency is a whole number"),
    ("a wrong retry", lambda: Service(Shop).implements(Shop.buy, retry=3), "retry takes"),  # type: ignore[arg-type]
    ("max_run 0", lambda: Service(Shop).implements(Shop.buy, max_run=0), "more than 0"),
    ("an unknown option", lambda: Service(Shop).implements(Shop.buy, workers=3), "takes no workers"),  # type: ignore[call-arg]
    ("finish as a word", lambda: Service(Shop).implements(Shop.buy, finish="yes"), "True or False"),  # type: ignore[arg-type]
    ("no log", lambda: Service(name="a").on(Shop.bought, from_beginning=True), "bought keeps no log"),
    ("a beginning", lambda: Service(name="a").on(Shop.bought, from_beginning=1), "from_beginning is True or False"),
    ("no plan", lambda: Service(name="a").schedule(), "takes a cron line"),  # type: ignore[call-overload]
    ("a bad cron line", lambda: Service(name="a").schedule("every day"), "cron"),
    ("a sync middleware", lambda: Service(name="a", middleware=[lambda ctx, proceed: proceed()]), "async def"),
    ("a sync hook", lambda: Service(name="a", authenticate=lambda headers: _authenticate(headers)), "async def"),
    ("a provider without a type", lambda: Service(name="a", provides=[lambda: 1]), "doesn't say what it provides"),
]


@pytest.mark.parametrize(("declare", "said"), [case[1:] for case in REFUSED], ids=[case[0] for case in REFUSED])
def test_what_cannot_work_is_refused_where_it_is_declared(declare: Callable[[], object], said: str) -> None:
    assert said in refusal(declare)


def test_handlers_that_cannot_be_called_are_refused() -> None:
    service = Service(Shop)
    implements: Any = service.implements(Shop.buy)

    def nothing() -> Receipt: ...
    def yielding(order: Order) -> Iterator[int]:
        yield 1

    assert "as its first parameter" in refusal(lambda: implements(nothing))
    assert "yields" in refusal(lambda: implements(yielding))
    assert "must be a function" in refusal(lambda: implements(Order))


def test_an_operation_has_one_handler() -> None:
    service = Service(Shop)

    @service.implements(Shop.buy)
    async def buy(order: Order) -> Receipt: ...

    assert "implemented twice" in refusal(lambda: service.implements(Shop.buy))
    other = Service(Shop, name="other")
    other.implements(Shop.buy)(buy)
    assert "two services of this process" in refusal(lambda: assembled([service, other]))


def test_an_operation_without_handler_is_refused_at_start() -> None:
    service = Service(Shop, Other)
    assert unimplemented(service) == ["shop_declaring.buy", "other_declaring.ask"]
    said = refusal(lambda: assembled([service]))
    assert "shop_declaring.buy and other_declaring.ask" in said


def test_a_handler_for_another_type_is_refused_at_start() -> None:
    service = Service(Shop)

    @service.implements(Shop.buy)  # type: ignore[arg-type]
    async def buy(receipt: Receipt) -> Receipt:
        return receipt

    said = refusal(lambda: assembled([service]))
    assert "takes receipt: Receipt" in said
    assert "is Order" in said


def test_types_of_which_python_cannot_say_what_fits_are_left_to_the_type_checker() -> None:
    class Row(TypedDict):
        number: int

    class Rows(Contract, name="rows_declaring"):
        add = Operation(Row, float)
        scale = Operation(float)

    service = Service(Rows)

    @service.implements(Rows.add)
    async def add(row: Row) -> float: ...

    @service.implements(Rows.scale)
    async def scale(by: float) -> None: ...

    assert len(assembled([service]).handlers) == 2


def test_a_context_of_the_wrong_kind_is_refused_at_start() -> None:
    service = Service(Other)

    @service.implements(Other.ask)
    def ask(nothing: None, ctx: Context) -> int:
        return 1

    assert "ringpost.blocking.Context" in refusal(lambda: assembled([service]))


def test_two_services_of_one_name_are_refused() -> None:
    assert "Two services are called" in refusal(lambda: assembled([Service(name="a"), Service(name="a")]))
    assert "nothing to run" in refusal(lambda: assembled([]))


def test_annotations_may_name_what_is_local() -> None:
    @dataclass
    class Repository:
        rows: int

    def repository() -> "Repository":
        return Repository(1)

    service = Service(Other, provides=[repository])

    @service.implements(Other.ask)
    async def ask(nothing: None, rows: "Repository") -> int:
        return rows.rows

    # The provider's annotation is a text that only this function knows: it is found through the handler's frame.
    assert assembled([service]).handlers.keys() == {"other_declaring.ask"}


async def middleware(ctx: Context, proceed: Callable[[], Awaitable[object]]) -> object:
    return await proceed()
