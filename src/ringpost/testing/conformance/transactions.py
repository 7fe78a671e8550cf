"""Transactions: a handler's SQL commits with the end of its handling under the fence, or nothing does.

Statements are plain SQL with `$1`, which SQLite and PostgreSQL both read. A store without the capability must refuse.
"""

from collections.abc import Sequence

from ringpost.contract.errors import UsageError
from ringpost.core.message import Answer, Cause, Delivery, Message, Settlement, State, Statement
from ringpost.store.port import Claimed, SqlTransaction
from ringpost.testing.conformance.settling import stale
from ringpost.testing.conformance.suite import (
    HOLDER,
    LEASE_S,
    OTHER,
    REPLY,
    Chapter,
    Subject,
    Violation,
    holds,
    message,
    refuses,
    reservation,
    same,
)

CHAPTER = Chapter("transactions")

_TABLE = "CREATE TABLE effect (name TEXT PRIMARY KEY)"
_INSERT = "INSERT INTO effect(name) VALUES ($1)"
_SELECT = "SELECT name FROM effect ORDER BY name"


def begin(subject: Subject) -> SqlTransaction:
    return subject.store.begin(lambda: "in the suite")


async def prepare(subject: Subject) -> None:
    """Make the table that cases write to, as programs do at their start."""
    transaction = subject.store.begin(lambda: "in the suite", alone=True)
    await transaction.execute((_TABLE, ()))
    holds("what no fence guards commits", await transaction.commit(None))


async def writing(subject: Subject, *names: str) -> SqlTransaction:
    """Begin a transaction that has written some names."""
    transaction = begin(subject)
    for name in names:
        await transaction.execute(insert(name))
    return transaction


def insert(name: str) -> Statement:
    return _INSERT, (name,)


async def names(subject: Subject) -> list[str]:
    """Give the names that are committed."""
    transaction = begin(subject)
    rows = await transaction.execute((_SELECT, ()))
    await transaction.rollback()
    return [row[0] for row in rows]


async def running(subject: Subject, *bodies: bytes) -> Sequence[Delivery]:
    await prepare(subject)
    await subject.put_bodies(*(bodies or (b"1",)))
    return await subject.claim()


async def settle(subject: Subject, *settlements: Settlement) -> Claimed:
    """Settle as a worker does, in its turn."""
    return await subject.store.claim({}, HOLDER, LEASE_S, settlements)


async def raised(promise: str, transaction: SqlTransaction, settlement: Settlement | None, *sql: Statement) -> None:
    try:
        await transaction.commit(settlement, (), sql)
    except Exception:  # noqa: BLE001 (whatever the driver has for it)
        return
    raise Violation(f"broken: {promise}; nothing was raised")


@CHAPTER.case()
async def a_store_without_sql_refuses_a_transaction(subject: Subject) -> None:
    if "sql" in subject.store.facts.capabilities:
        return
    try:
        begin(subject)
    except UsageError:
        return
    raise Violation("broken: what a store can't do it refuses; it began a transaction")


@CHAPTER.case("sql")
async def what_is_written_is_there_once_committed(subject: Subject) -> None:
    await prepare(subject)
    transaction = await writing(subject, "a", "b")
    rows = await transaction.execute((_SELECT, ()))
    same("it sees its own writes", [row[0] for row in rows], ["a", "b"])
    holds("it has begun with its first write", transaction.begun)
    holds("it commits", await transaction.commit(None))
    same("what it wrote is there", await names(subject), ["a", "b"])


@CHAPTER.case("sql")
async def a_rollback_leaves_nothing(subject: Subject) -> None:
    await prepare(subject)
    transaction = await writing(subject, "a")
    await transaction.rollback()
    await transaction.rollback()
    same("nothing of it is there", await names(subject), [])
    await (await writing(subject, "a")).commit(None)
    same("and it can be written anew", await names(subject), ["a"])


@CHAPTER.case("sql")
async def a_rehearsal_tells_what_would_fail_and_leaves_nothing(subject: Subject) -> None:
    await prepare(subject)
    for failing in (False, True):
        for transaction in (await writing(subject, "a"), begin(subject)):
            try:
                await transaction.rehearse([insert("b"), *([insert("b")] if failing else [])])
            except Exception as error:  # noqa: BLE001 (whatever the driver has for it)
                holds(f"a rehearsal tells only what would fail ({error})", failing)
            else:
                holds("a rehearsal tells of a deferred statement that would fail", not failing)
            same("nothing of it is there", await names(subject), [])
            await refuses("a rehearsed transaction is over", transaction.execute(insert("c")))
    await begin(subject).rehearse()
    await (await writing(subject, "a")).commit(None)
    same("and it can be written anew", await names(subject), ["a"])


@CHAPTER.case("sql")
async def reading_holds_nothing(subject: Subject) -> None:
    await prepare(subject)
    transaction = begin(subject)
    await transaction.execute((_SELECT, ()))
    holds("who only reads keeps nobody waiting", not transaction.begun)
    await (await writing(subject, "a")).commit(None)
    rows = await transaction.execute((_SELECT, ()))
    same("and sees what has been committed meanwhile", [row[0] for row in rows], ["a"])
    await transaction.lock()
    holds("a lock begins at once", transaction.begun)
    await transaction.rollback()


@CHAPTER.case("sql")
async def the_end_and_its_effects_are_one_commit(subject: Subject) -> None:
    (delivery,) = await running(subject)
    transaction = await writing(subject, "a")
    same("nothing is there before", await names(subject), [])
    settlement = Settlement(
        delivery, State.SUCCEEDED, REPLY, staged=[message(b"next", OTHER)], sql=(insert("b"), insert("c"))
    )
    holds("the holder commits", await transaction.commit(settlement))
    record = await subject.there(delivery.id)
    same("it has ended with its answer", (record.state, record.answer), (State.SUCCEEDED, REPLY))
    same("what it wrote and deferred is there", await names(subject), ["a", "b", "c"])
    same("what it staged is there", await subject.bodies(OTHER), [b"next"])
    same("and it can't be settled twice", await subject.settle(Settlement(delivery, State.SUCCEEDED)), False)


@CHAPTER.case("sql")
async def a_lost_fence_commits_nothing(subject: Subject) -> None:
    await prepare(subject)
    lost, current = await stale(subject)
    transaction = await writing(subject, "a")
    settlement = Settlement(lost, State.SUCCEEDED, REPLY, staged=[message(b"next", OTHER)], sql=(insert("b"),))
    same("a holder who lost its lease commits nothing", await transaction.commit(settlement), False)
    same("nothing it wrote is there", await names(subject), [])
    same("nothing it staged is there", await subject.bodies(OTHER), [])
    record = await subject.there(lost.id)
    same("the row is the other's", (record.state, record.fence), (State.RUNNING, current.fence))
    transaction = await writing(subject, "a")
    holds("who commits", await transaction.commit(Settlement(current, State.SUCCEEDED)))
    same("its own", await names(subject), ["a"])


@CHAPTER.case("sql")
async def a_failing_end_commits_nothing(subject: Subject) -> None:
    (delivery,) = await running(subject)
    transaction = await writing(subject, "a")
    settlement = Settlement(delivery, State.SUCCEEDED, staged=[message(b"next", OTHER)], sql=(insert("a"),))
    await raised("a deferred statement that fails is told", transaction, settlement)
    same("nothing it wrote is there", (await names(subject), await subject.bodies(OTHER)), ([], []))
    same("and its row still runs", await subject.state(delivery.id), State.RUNNING)
    failed = Settlement(delivery, State.SCHEDULED, cause=Cause.HANDLER_ERROR)
    holds("under its fence", await subject.settle(failed))


@CHAPTER.case("sql")
async def a_keyed_call_settles_its_key_with_its_effects(subject: Subject) -> None:
    await prepare(subject)
    wanted = reservation()
    delivery = await subject.reserve(wanted)
    transaction = await writing(subject, "a")
    settlement = Settlement(delivery, State.SUCCEEDED, Answer(200, b'"done"'), staged=[message(b"next", OTHER)])
    holds("it commits", await transaction.commit(settlement))
    record = await subject.there(wanted.id)
    same("its answer is kept", (record.state, record.answer), (State.SUCCEEDED, Answer(200, b'"done"')))
    same("beside its effects", (await names(subject), await subject.bodies(OTHER)), (["a"], [b"next"]))


@CHAPTER.case("sql")
async def a_call_without_key_commits_what_it_staged_and_wrote(subject: Subject) -> None:
    await prepare(subject)
    transaction = await writing(subject, "a")
    holds("begun", await transaction.commit(None, [message(b"1", OTHER)], [insert("b")]))
    holds("or not", await begin(subject).commit(None, [message(b"2", OTHER)], [insert("c")]))
    same("what they wrote is there", await names(subject), ["a", "b", "c"])
    same("what they staged is there", await subject.bodies(OTHER), [b"1", b"2"])
    failing = [message(b"3", OTHER)]
    try:
        await begin(subject).commit(None, failing, [insert("d"), insert("a")])
    except Exception:  # noqa: BLE001 (whatever the driver has for it)
        same("and all or nothing", (await names(subject), await subject.bodies(OTHER)), (["a", "b", "c"], []))
    else:
        raise Violation("broken: a deferred statement that fails is told; nothing was raised")


@CHAPTER.case("sql")
async def what_has_ended_takes_nothing_more(subject: Subject) -> None:
    await prepare(subject)
    committed, undone = await writing(subject, "a"), begin(subject)
    await committed.commit(None)
    await undone.rollback()
    for transaction in (committed, undone):
        await refuses("what has ended runs nothing", transaction.execute(insert("b")))
        await refuses("nor begins again", transaction.lock())
    same("nothing came after", await names(subject), ["a"])


@CHAPTER.case("sql")
async def statements_cannot_end_the_transaction(subject: Subject) -> None:
    await prepare(subject)
    transaction = await writing(subject, "a")
    for sql in ("COMMIT", "ROLLBACK", "BEGIN", "SAVEPOINT s", "ROLLBACK /* */ ;", "-- \nCOMMIT"):
        await refuses(f"{sql} is refused", transaction.execute((sql, ())))
        same(f"and does nothing ({sql})", await names(subject), [])
    await transaction.rollback()
    same("all of it is undone", await names(subject), [])


@CHAPTER.case("sql")
async def deferred_statements_go_with_the_settlement(subject: Subject) -> None:
    deliveries = await running(subject, b"1", b"2", b"3")
    done = await settle(
        subject,
        *(
            Settlement(one, State.SUCCEEDED, sql=(insert(one.body.decode()), insert(f"{one.body.decode()}+")))
            for one in deliveries
        ),
    )
    same("all are settled", (done.settled, dict(done.unsettled)), ([True] * 3, {}))
    same("and written", await names(subject), ["1", "1+", "2", "2+", "3", "3+"])


@CHAPTER.case("sql")
async def a_deferred_statement_fails_only_its_own_message(subject: Subject) -> None:
    one, two, three, four = await running(subject, b"1", b"2", b"3", b"4")
    done = await settle(
        subject,
        Settlement(one, State.SUCCEEDED, sql=(insert("1"),)),
        Settlement(two, State.SUCCEEDED, REPLY, staged=_staged(b"2"), sql=(insert("2"), insert("1"))),
        Settlement(three, State.SUCCEEDED, staged=_staged(b"3"), sql=(insert("3"),)),
        Settlement(four, State.SUCCEEDED, staged=_staged(b"4")),
    )
    same("its neighbours are settled", [done.settled[place] for place in (0, 2, 3)], [True] * 3)
    holds("it is told what its statement raised", list(done.unsettled) == [1] and done.unsettled[1] is not None)
    same("nothing of it is there", (await names(subject), await subject.bodies(OTHER)), (["1", "3"], [b"3", b"4"]))
    record = await subject.there(two.id)
    same("and it still runs", (record.state, record.fence, record.answer), (State.RUNNING, two.fence, None))
    await subject.finish(two, State.FAILED)


@CHAPTER.case("sql")
async def a_lost_fence_defers_nothing(subject: Subject) -> None:
    await prepare(subject)
    lost, current = await stale(subject)
    done = await settle(
        subject,
        Settlement(lost, State.SUCCEEDED, sql=(insert("a"),)),
        Settlement(current, State.SUCCEEDED, sql=(insert("b"),)),
    )
    same("one has lost", (done.settled, dict(done.unsettled)), ([False, True], {}))
    same("and written nothing", await names(subject), ["b"])


def _staged(body: bytes) -> list[Message]:
    return [message(body, OTHER)]
