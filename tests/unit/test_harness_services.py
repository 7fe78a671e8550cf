"""The harness: services called and sent to under virtual time, and what it shows of them."""

import asyncio
import itertools
import time
from dataclasses import dataclass
from datetime import timedelta

import pytest

from ringpost import (
    Context,
    Contract,
    DeadLetter,
    DeadlineExceeded,
    Event,
    Operation,
    Outcome,
    Problem,
    Reject,
    Retry,
    Service,
    Tick,
    Ticket,
    Unavailable,
    UsageError,
    blocking,
    deadline,
)
from ringpost.testing import Harness


@dataclass
class NewUser:
    email: str
    name: str = ""


@dataclass
class User:
    id: str
    email: str


class EmailTaken(Problem, status=409, title="This email is already registered"):
    email: str


class Accounts(Contract):
    register = Operation(NewUser, User, raises=[EmailTaken], timeout=2)
    registered = Event(User)
    nap = Operation(float, float, timeout=60)
    nap_in_thread = Operation(float, float, timeout=60)
    relay = Operation(float, float, timeout=60)


class Mail(Contract):
    welcome = Operation(User)
    told = Operation(Outcome[User, None])


class Mailbox:
    def __init__(self) -> None:
        self.letters: list[User] = []


class Broken(Exception):
    pass


def accounts() -> Service:
    service = Service(Accounts)

    @service.implements(Accounts.register)
    async def register(new: NewUser, ctx: Context) -> User:
        user = User(new.email.upper(), new.email)
        await ctx.send(Mail.welcome, user)
        await ctx.publish(Accounts.registered, user)
        if new.email == "taken":
            raise EmailTaken(new.email)
        return user

    @service.implements(Accounts.nap, max_run=10_000)
    async def nap(length_s: float) -> float:
        await asyncio.sleep(length_s)
        return asyncio.get_running_loop().time()

    @service.implements(Accounts.nap_in_thread)
    def nap_in_thread(length_s: float, ctx: blocking.Context) -> float:
        return ctx.call(Accounts.nap, length_s)

    @service.implements(Accounts.relay)
    async def relay(length_s: float, ctx: Context) -> float:
        return await ctx.call(Accounts.nap, length_s)

    return service


def mail(fails: int = 0) -> Service:
    service = Service(Mail)
    left = [fails]

    @service.implements(Mail.welcome, retry=Retry(attempts=3, first=10, longest=10))
    async def welcome(user: User, box: Mailbox) -> None:
        if left[0]:
            left[0] -= 1
            raise Broken("no connection")
        if user.email == "refused":
            raise Reject("no such domain")
        box.letters.append(user)

    @service.implements(Mail.told)
    async def told(outcome: Outcome[User, None]) -> None: ...

    return service


@pytest.fixture
def box() -> Mailbox:
    return Mailbox()


def with_box(box: Mailbox, *services: Service) -> Harness:
    def mailbox() -> Mailbox:
        return box

    return Harness(*services, provides=[mailbox])


async def test_a_call_and_what_follows_from_it(box: Mailbox) -> None:
    async with with_box(box, accounts(), mail()) as harness:
        user = await harness.client.call(Accounts.register, NewUser("ann"))
        assert user == User("ANN", "ann")
        await harness.settle()
        assert harness.sent(Mail.welcome) == harness.published(Accounts.registered) == [user]
        assert box.letters == [user]
        assert harness.dead_letters() == []


async def test_a_handler_that_says_no_sends_nothing(box: Mailbox) -> None:
    async with with_box(box, accounts(), mail()) as harness:
        with pytest.raises(EmailTaken) as raised:
            await harness.client.call(Accounts.register, NewUser("taken"))
        assert raised.value.email == "taken"
        await harness.settle()
        assert harness.sent(Mail.welcome) == harness.published(Accounts.registered) == box.letters == []


async def test_a_message_and_its_ticket(box: Mailbox) -> None:
    async with with_box(box, accounts(), mail()) as harness:
        ticket = await harness.client.send(Accounts.register, NewUser("ann"))
        assert isinstance(ticket, Ticket)
        assert ticket.level == "buffered"
        assert await ticket.result() == User("ANN", "ann")
        assert (await ticket.status()).state == "succeeded"
        assert [status.state async for status in ticket.updates()] == ["succeeded"]
        again = harness.client.ticket(Accounts.register, ticket.id)
        assert await again.result() == User("ANN", "ann")
        assert await again.cancel() == "too_late"


async def test_sleeping_costs_nothing() -> None:
    begun_s = time.perf_counter()
    async with Harness(accounts()) as harness:
        ticket = await harness.client.send(Accounts.nap, 3600)
        assert await ticket.result(timeout=4000) >= 3600
    assert time.perf_counter() - begun_s < 60  # an hour in less than a minute: time was not waited for


async def test_calls_together_take_as_long_as_one() -> None:
    async with Harness(accounts()) as harness:
        ends_s = await asyncio.gather(*(harness.client.call(Accounts.nap, 2.0) for _ in range(5)))
        assert ends_s == [ends_s[0]] * 5
        first_s = ends_s[0]
        assert await harness.client.call_all(Accounts.nap, [2.0] * 5) == [first_s + 2] * 5
        for step in range(2):
            assert await harness.client.call(Accounts.nap, 2.0) == first_s + 4 + 2 * step


async def test_a_call_has_its_deadline() -> None:
    async with Harness(accounts()) as harness:
        with pytest.raises(DeadlineExceeded):
            await harness.client.call(Accounts.nap, 30.0, timeout=3)
        with deadline(1), pytest.raises(DeadlineExceeded):
            await harness.client.call(Accounts.nap, 30.0)
        assert await harness.client.call(Accounts.nap, 30.0) > 30


async def test_a_deadline_is_shared_by_the_calls_inside() -> None:
    async with Harness(accounts()) as harness:
        with deadline(5):
            await harness.client.call(Accounts.nap, 3.0)
            with pytest.raises(DeadlineExceeded):
                await harness.client.call(Accounts.nap, 3.0)


async def test_handlers_call_handlers() -> None:
    async with Harness(accounts()) as harness:
        assert await harness.client.call(Accounts.relay, 20.0) == 20.0


async def test_handlers_in_threads_wait_in_virtual_time() -> None:
    async with Harness(accounts()) as harness:
        assert await harness.client.call(Accounts.nap_in_thread, 20.0) == 20.0


async def test_retries_come_as_time_passes(box: Mailbox) -> None:
    async with with_box(box, mail(fails=2)) as harness:
        ticket = await harness.client.send(Mail.welcome, User("1", "ann"))
        await harness.settle()
        assert ((await ticket.status()).state, box.letters) == ("running", [])
        await harness.advance(10)
        assert ((await ticket.status()).attempt, box.letters) == (2, [])
        await harness.advance(timedelta(seconds=10))
        assert box.letters == [User("1", "ann")]


async def test_a_ticket_waits_through_retries(box: Mailbox) -> None:
    async with with_box(box, mail(fails=2)) as harness:
        ticket = await harness.client.send(Mail.welcome, User("1", "ann"))
        assert await ticket.result() is None


async def test_what_is_given_up_is_a_dead_letter(box: Mailbox) -> None:
    async with with_box(box, mail(fails=3)) as harness:
        sent = await harness.client.send(Mail.welcome, User("1", "ann"))
        await harness.advance(60)
        (lost,) = harness.dead_letters()
        assert isinstance(lost, DeadLetter)
        assert (lost.operation, lost.message_id) == ("mail.welcome", sent.id)
        assert (lost.cause, lost.attempts) == ("handler_error", 3)
        assert "no connection" in lost.errors[-1]
        await harness.client.send(Mail.welcome, User("1", "refused"))
        await harness.settle()
        assert [letter.cause for letter in harness.dead_letters()] == ["handler_error", "rejected"]


async def test_delays_and_expiry_are_virtual(box: Mailbox) -> None:
    async with with_box(box, mail()) as harness:
        await harness.client.send(Mail.welcome, User("1", "late"), delay=timedelta(days=2))
        with harness.down(Mail):
            gone = await harness.client.send(Mail.welcome, User("1", "gone"), ttl=60)
            await harness.advance(3600)
        assert (await gone.status()).state == "expired"
        await harness.settle()
        assert box.letters == []
        await harness.advance(timedelta(days=2))
        assert box.letters == [User("1", "late")]


async def test_the_outcome_comes_back(box: Mailbox) -> None:
    async with with_box(box, mail()) as harness:
        await harness.client.send(Mail.welcome, User("1", "ann"), reply_to=Mail.told)
        await harness.settle()
        (outcome,) = harness.sent(Mail.told)
        assert (outcome.request, outcome.state, outcome.error) == (User("1", "ann"), "succeeded", None)


async def test_schedules_tick_in_virtual_time() -> None:
    ticks: list[Tick] = []
    service = Service(name="clock")

    @service.schedule(every=3600, name="hourly")
    async def hourly(tick: Tick) -> None:
        ticks.append(tick)

    async with Harness(service) as harness:
        await harness.advance(timedelta(hours=5))
    hours = [tick.due_at for tick in ticks]
    assert len(hours) == 5
    assert {later - earlier for earlier, later in itertools.pairwise(hours)} == {timedelta(hours=1)}


async def test_order_is_kept_with_an_ordering_key(box: Mailbox) -> None:
    async with with_box(box, mail(fails=1)) as harness:
        for number in range(4):
            await harness.client.send(Mail.welcome, User(str(number), "ann"), ordering_key="ann")
        await harness.advance(30)
        assert [user.id for user in box.letters] == ["0", "1", "2", "3"]


async def test_a_handler_is_a_function_and_gets_a_context() -> None:
    async def handler(new: NewUser, ctx: Context) -> float:
        await ctx.send(Mail.welcome, User("1", new.email))
        await ctx.publish(Accounts.registered, User("1", new.email))
        assert 0 < ctx.remaining <= 60
        assert ctx.attempt == 1
        assert ctx.fence is None
        return await ctx.call(Accounts.nap, 5.0)

    async with Harness(accounts()) as harness:
        assert await handler(NewUser("ann"), harness.context()) == 5.0
        assert harness.sent(Mail.welcome) == harness.published(Accounts.registered) == [User("1", "ann")]


async def test_fakes_answer_for_others(box: Mailbox) -> None:
    def answer(user: User) -> None:
        box.letters.append(user)

    async with Harness(accounts()) as harness:
        harness.fake(Mail.welcome, answer)
        await harness.client.call(Accounts.register, NewUser("ann"))
        await harness.settle()
        assert box.letters == [User("ANN", "ann")]


async def test_a_fake_takes_the_place_of_a_handler() -> None:
    def taken(new: NewUser) -> User:
        raise EmailTaken(new.email)

    async with Harness(accounts()) as harness:
        harness.fake(Accounts.register, taken)
        with pytest.raises(EmailTaken):
            await harness.client.call(Accounts.register, NewUser("ann"))
        harness.fake(Accounts.register, lambda new: User("fake", new.email))
        assert await harness.client.call(Accounts.register, NewUser("ann")) == User("fake", "ann")
        with pytest.raises(UsageError, match="before"):
            harness.fake(Mail.welcome, lambda user: None)


async def test_what_nobody_serves_is_unavailable() -> None:
    async with Harness(accounts()) as harness:
        with pytest.raises(Unavailable, match=r"mail\.welcome"):
            await harness.client.call(Mail.welcome, User("1", "ann"))


def test_without_an_event_loop(box: Mailbox) -> None:
    with with_box(box, accounts(), mail()) as harness:
        client = harness.blocking_client
        assert client.call(Accounts.register, NewUser("ann")) == User("ANN", "ann")
        ticket = client.send(Accounts.nap, 600)
        assert ticket.result(timeout=700) >= 600
        assert box.letters == [User("ANN", "ann")]


async def test_a_client_is_refused_in_handlers() -> None:
    service = Service(Mail)
    found: list[Exception] = []

    @service.implements(Mail.welcome)
    async def welcome(user: User) -> None:
        try:
            await harness.client.send(Mail.welcome, user)
        except UsageError as error:
            found.append(error)

    @service.implements(Mail.told)
    async def told(outcome: Outcome[User, None]) -> None: ...

    async with Harness(service) as harness:
        await harness.client.call(Mail.welcome, User("1", "ann"))
    assert "ctx.send" in str(found[0])


async def test_a_closed_harness_says_so() -> None:
    harness = Harness(accounts())
    await harness.close()
    await harness.close()
    with pytest.raises(UsageError, match="closed"):
        await harness.client.call(Accounts.nap, 1.0)


async def test_what_can_not_run_is_said_at_first_use() -> None:
    async with Harness(Service(Accounts)) as harness:
        with pytest.raises(UsageError, match=r"accounts\.register"):
            await harness.settle()
