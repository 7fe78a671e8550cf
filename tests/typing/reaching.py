"""Reaching: call, send, publish and what they give. Each line marked `wrong` must be refused, and no other."""

from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import assert_type

from shop import Accounts, Circle, EmailTaken, NewUser, Square, User

from ringpost import Caller, Client, Outcome, Receipt, RingpostError, Sender, Status, Ticket

NEW = NewUser("ada@example.org", "Ada")
USER = User("1", "ada@example.org")


async def calls(client: Client) -> None:
    assert_type(await client.call(Accounts.register, NEW, timeout=2), User)
    assert_type(await client.call(Accounts.find, {"text": "ada"}), User | None)
    assert_type(await client.call(Accounts.area, Circle(1.0)), float)
    assert_type(await client.call(Accounts.area, Square(1.0), priority="low"), float)
    assert_type(await client.call(Accounts.names, ["ada"]), dict[str, int])
    assert_type(await client.call(Accounts.names, []), dict[str, int])
    assert_type(await client.call(Accounts.ping, None), int)
    assert_type(await client.call_all(Accounts.register, [NEW, NEW], concurrency=5), list[User])
    assert_type(client.call_each(Accounts.register, [NEW]), AsyncIterator[Outcome[NewUser, User]])
    assert_type(await client.call_or_send(Accounts.register, NEW, wait=2), User | Ticket[User])
    receipt = await client.publish(Accounts.registered, USER)
    await client.call(Accounts.register, NEW, after=receipt, headers={"x": "y"}, idempotency_key="k")
    await client.call(Accounts.register, NEW, after=[receipt, receipt])
    await client.call(Accounts.register, NEW, attempts=1, hedge=False)


async def sends(client: Client) -> None:
    ticket = await client.send(Accounts.register, NEW, delay=60, ttl=timedelta(hours=1), ordering_key="ada")
    assert_type(ticket, Ticket[User])
    assert_type(await ticket.result(timeout=60), User)
    assert_type(await ticket.status(), Status)
    assert_type(ticket.updates(), AsyncIterator[Status])
    assert_type(ticket.id, str)
    assert_type(await client.send(Accounts.welcome, USER, delay=datetime.now(UTC)), Ticket[None])
    assert_type(await client.send_all(Accounts.register, [NEW]), list[Ticket[User]])
    assert_type(client.ticket(Accounts.register, ticket.id), Ticket[User])
    assert_type(await client.publish(Accounts.registered, USER), Receipt)
    await client.send(Accounts.register, NEW, reply_to=Accounts.registered_outcome)
    await client.send(Accounts.register, NEW, reply_to="https://example.org/hook")


async def helpers(sender: Sender, caller: Caller) -> None:
    assert_type(await sender.send(Accounts.register, NEW), Receipt)
    assert_type(await sender.send_all(Accounts.register, [NEW]), Sequence[Receipt])
    assert_type(await caller.call(Accounts.register, NEW), User)


async def outcomes(client: Client) -> None:
    async for outcome in client.call_each(Accounts.register, [NEW]):
        assert_type(outcome.request, NewUser)
        assert_type(outcome.result(), User)
        assert_type(outcome.error, RingpostError | None)
        match outcome.error:
            case EmailTaken(email=email):
                assert_type(email, str)
            case _:
                pass


class Awaited:
    """A session as SQLAlchemy and psycopg have it, and a connection as asyncpg has it."""

    async def commit(self) -> None: ...


class Begun:
    def is_in_transaction(self) -> bool:
        return True


async def outboxes(client: Client, session: Awaited, begun: Begun) -> None:
    assert_type(await client.outbox(session).send(Accounts.register, NEW, delay=2), Receipt)
    assert_type(await client.outbox(begun).publish(Accounts.registered, USER), Receipt)
    sender: Sender = client.outbox(session)
    await sender.send(Accounts.register, NEW)
    await client.outbox(session).send(Accounts.register, USER)  # wrong
    await client.outbox(session).call(Accounts.register, NEW)  # wrong
    client.outbox("postgresql://db/shop")  # wrong


async def wrong(client: Client, sender: Sender) -> None:
    await client.call(Accounts.register, USER)  # wrong
    await client.call(Accounts.register, {"email": "a", "name": "b"})  # wrong
    await client.call(Accounts.register, NewUser)  # wrong
    await client.call(Accounts.register)  # wrong
    await client.call(NEW, Accounts.register)  # wrong
    await client.call(Accounts.registered, USER)  # wrong
    await client.call(Accounts.names, [1])  # wrong
    await client.call(Accounts.area, USER)  # wrong
    await client.call(Accounts.find, {"txt": "ada"})  # wrong
    await client.call(Accounts.ping, 5)  # wrong
    await client.call(Accounts.register, request=NEW)  # wrong
    await client.call(Accounts.register, NEW, timeout="2")  # wrong
    await client.call(Accounts.register, NEW, delay=2)  # wrong
    await client.call(Accounts.register, NEW, attempts="2")  # wrong
    await client.call(Accounts.register, NEW, hedge=0.5)  # wrong
    await client.send(Accounts.register, NEW, attempts=2)  # wrong
    await client.call(Accounts.register, NEW, after=5)  # wrong
    await client.call(Accounts.register, NEW, priority="urgent")  # wrong
    await client.call_all(Accounts.register, NEW)  # wrong
    await client.call_all(Accounts.register, [USER])  # wrong
    await client.send(Accounts.register, USER)  # wrong
    await client.send(Accounts.register, NEW, timeout=2)  # wrong
    await client.send(Accounts.register, NEW, reply_to=Accounts.welcome)  # wrong
    await client.send_all(Accounts.register, [USER])  # wrong
    await client.publish(Accounts.register, NEW)  # wrong
    await client.publish(Accounts.registered, NEW)  # wrong
    await sender.call(Accounts.register, NEW)  # wrong
    print((await client.call(Accounts.register, NEW)).street)  # wrong
    print((await client.send(Accounts.register, NEW)).email)  # wrong
    print((await client.call(Accounts.find, {"text": "ada"})).email)  # wrong
    print((await client.call_or_send(Accounts.register, NEW)).email)  # wrong
    user: str = await client.call(Accounts.register, NEW)  # wrong
    print(user)
