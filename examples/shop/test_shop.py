"""The shop's registration and its numbers, tested in milliseconds: no disk, no port, no waiting."""

import sqlite3
from collections.abc import AsyncIterator, Iterator

import pytest
from accounts import accounts
from analytics import PAGE_S, analytics
from contracts import Accounts, Analytics, EmailTaken, Mail, NewUser, ReportOrder, User

from ringpost.testing import Harness

ADA = NewUser("ada@example.com", "Ada")


def a_database() -> Iterator[sqlite3.Connection]:
    """Both databases in one, in memory."""
    db = sqlite3.connect(":memory:", isolation_level=None)
    db.execute("CREATE TABLE users (email TEXT PRIMARY KEY, name TEXT, asked_by TEXT)")
    db.execute("CREATE TABLE seen (user TEXT PRIMARY KEY)")
    db.execute("CREATE TABLE reports (title TEXT PRIMARY KEY, registrations INTEGER)")
    yield db
    db.close()


@pytest.fixture
def letters() -> list[str]:
    return []


@pytest.fixture
async def shop(letters: list[str]) -> AsyncIterator[Harness]:
    async with Harness(accounts, analytics, provides=[a_database]) as harness:
        harness.fake(Mail.welcome, lambda user: letters.append(user.email))
        yield harness


async def test_a_user_is_registered_welcomed_and_counted(shop: Harness, letters: list[str]) -> None:
    user = await shop.client.call(Accounts.register, ADA)
    await shop.settle()
    assert user == User("1", "ada@example.com", "Ada")
    assert shop.published(Accounts.registered) == [user]
    assert letters == ["ada@example.com"]
    assert (await shop.client.call(Analytics.report, ReportOrder("today", pages=1))).registrations == 1


async def test_an_email_is_registered_once(shop: Harness, letters: list[str]) -> None:
    await shop.client.call(Accounts.register, ADA)
    with pytest.raises(EmailTaken) as taken:
        await shop.client.call(Accounts.register, ADA)
    await shop.settle()
    assert taken.value.email == "ada@example.com"
    assert letters == ["ada@example.com"]


async def test_a_registration_that_is_handled_twice_has_one_user_and_one_letter(
    shop: Harness, letters: list[str]
) -> None:
    with shop.duplicate(Accounts):
        ticket = await shop.client.send(Accounts.register, ADA)
        assert (await ticket.result()).id == "1"
        await shop.settle()
    assert letters == ["ada@example.com"]


async def test_registering_goes_on_while_mail_is_down(shop: Harness, letters: list[str]) -> None:
    with shop.down(Mail):
        await shop.client.call(Accounts.register, ADA)
        await shop.advance(3600)
        assert letters == []
    await shop.settle()
    assert letters == ["ada@example.com"]


async def test_a_long_report_is_sent_and_its_outcome_arrives(shop: Harness) -> None:
    pages = 1000  # four minutes on the wall
    await shop.client.send(Analytics.report, ReportOrder("year", pages), reply_to=Analytics.report_done)
    await shop.advance(pages * PAGE_S + 1)
    (outcome,) = shop.sent(Analytics.report_done)
    assert outcome.result().title == "year"
