"""One store on PostgreSQL, one request or answer that is lost on the way: what is asked takes effect once, in time."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Coroutine
from types import SimpleNamespace
from typing import Any

import pytest
from msgspec.structs import replace
from pg_wire import Statements
from servers.postgres import RealPostgres
from tcp_proxy import Cut, End, TcpProxy

from ringpost.client.posting import new_id
from ringpost.contract.errors import StoreError
from ringpost.core.message import Answer, Delivery, Settlement, State
from ringpost.settings import Settings
from ringpost.store.postgres import deferred as postgres_deferred
from ringpost.store.postgres import link as postgres_link
from ringpost.store.postgres import server as postgres_server
from ringpost.store.postgres import session as postgres_session
from ringpost.store.postgres import settle as postgres_settle
from ringpost.store.postgres import store as postgres_store
from ringpost.store.postgres import vigil as postgres_vigil
from ringpost.store.postgres import writer as postgres_writer
from ringpost.store.postgres.db import Db
from ringpost.store.postgres.link import Link
from ringpost.store.postgres.server import Server
from ringpost.store.postgres.store import PostgresStore
from ringpost.store.postgres.transaction import CONNECTIONS_MAX
from ringpost.store.postgres.turn import Turn
from ringpost.store.postgres.vigil import Vigil
from ringpost.store.postgres.writer import Ask, Writer
from ringpost.testing.conformance.suite import HOLDER, LEASE_S, QUEUE, message

ANSWERED_S = 10.0
CLOSE_S = 0.5  # that a connection may take to be closed; 2 s for users
TWIN_S = 2.5  # the limits by which a twin would help itself are longer: 5 s that a turn may be idle, 20 s a statement
ENDS: list[End] = ["reset", "close", "silence"]


class Distant:
    """A store behind a proxy, a message of it that is held, and a table in which its settlement writes a row."""

    def __init__(self, server: RealPostgres, database: str, proxy: TcpProxy, store: PostgresStore) -> None:
        self._server = server
        self._database = database
        self.proxy = proxy
        self.store = store
        self.statements = Statements(proxy)
        self.settlement = Settlement(Delivery(0, b"", "", 0, 0, 0, 0, 0, b"", b""), State.SUCCEEDED)

    async def open(self) -> None:
        await self.store.open(create=True)
        await self.execute("CREATE TABLE effect (what text)")
        await self.store.put([message()])
        (held,) = (await self.store.claim({QUEUE: 1}, HOLDER, LEASE_S)).deliveries
        self.settlement = Settlement(held, State.SUCCEEDED, sql=[("INSERT INTO effect VALUES ('it')", ())])

    async def execute(self, sql: str) -> list[tuple[object, ...]]:
        """Ask the server past the proxy."""
        return [tuple(row) for row in await asyncio.to_thread(self._server.execute, self._database, sql)]

    async def count(self, table: str) -> int:
        ((found,),) = await self.execute(f"SELECT count(*)::int FROM {table}")
        assert isinstance(found, int)
        return found

    async def sessions(self) -> int:
        """Count the sessions of the store on the server."""
        return await self.count(
            "pg_stat_activity WHERE datname = current_database() AND application_name ~ '^ringpost-'"
        )

    async def put(self) -> None:
        async with asyncio.timeout(ANSWERED_S):
            await self.store.put([message()])

    async def rest_connections(self, count: int) -> None:
        """Have so many connections of transactions, which nobody uses."""
        transactions = [self.store.begin(lambda: "") for _ in range(count)]
        await asyncio.gather(*(one.lock() for one in transactions))
        await asyncio.gather(*(one.rollback() for one in transactions))

    def lose_the_question(self) -> Cut:
        """Let the vigil get no answer, once."""
        return self.proxy.lose_answer(self.statements.runs("SELECT application_name FROM pg_stat"), "silence")

    async def settled(self) -> list[bool]:
        async with asyncio.timeout(ANSWERED_S):
            return await self.store.settle([self.settlement])

    async def is_stuck(self, asked: Coroutine[Any, Any, object], twin: pytest.MonkeyPatch) -> bool:
        """Say whether there is no answer; then mend all, and have it."""
        waiting = asyncio.ensure_future(asked)
        done, _ = await asyncio.wait([waiting], timeout=TWIN_S)
        twin.undo()
        await self.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        self.proxy.reset()
        await asyncio.gather(waiting, return_exceptions=True)
        return not done


@pytest.fixture
async def distant(fast_postgres: RealPostgres) -> AsyncIterator[Distant]:
    database = await asyncio.to_thread(fast_postgres.new_database)
    async with TcpProxy("127.0.0.1", fast_postgres.port) as proxy:
        url = f"postgresql://postgres@127.0.0.1:{proxy.port}/{database}"
        distant = Distant(fast_postgres, database, proxy, PostgresStore(url, Settings(durability="buffered")))
        await distant.open()
        yield distant
        proxy.reset()
        await distant.store.close()


@pytest.fixture
def doubtful(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the vigil ask early."""
    monkeypatch.setattr(postgres_vigil, "SILENT_S", 0.3)
    monkeypatch.setattr(postgres_vigil, "_LOOK_S", 0.1)
    monkeypatch.setattr(postgres_vigil, "_ANSWER_S", 0.5)


# --- an answer is lost: it has taken effect


@pytest.mark.usefixtures("doubtful")
@pytest.mark.parametrize("how", ENDS)
async def test_a_settlement_runs_its_sql_once(how: End, distant: Distant) -> None:
    lost = distant.proxy.lose_answer(distant.statements.commits("SAVEPOINT deferred"), how)
    assert await distant.settled() == [True]
    assert lost.happened
    assert await distant.count("effect") == 1


async def test_a_handlers_transaction_is_told_of_its_commit(distant: Distant) -> None:
    lost = distant.proxy.lose_answer(distant.statements.commits("INTO effect"))
    transaction = distant.store.begin(lambda: "")
    await transaction.execute(("INSERT INTO effect VALUES ('that')", ()))
    assert await transaction.commit(replace(distant.settlement, sql=()))
    assert lost.happened
    assert await distant.count("effect") == 1


async def test_a_put_is_there_once(distant: Distant) -> None:
    lost = distant.proxy.lose_answer(distant.statements.runs('INSERT INTO "ringpost".letter'))
    (put,) = await distant.store.put([message()])
    assert not put.refused
    assert lost.happened
    assert await distant.count("ringpost.letter") == 2


async def test_a_claim_gives_what_it_took_and_no_more(distant: Distant) -> None:
    await distant.store.put([message() for _ in range(3)])
    lost = distant.proxy.lose_answer(distant.statements.runs("ORDER BY k.priority, k.seq"))
    claimed = await distant.store.claim({QUEUE: 2}, HOLDER, LEASE_S)
    assert lost.happened
    assert len(claimed.deliveries) == 2
    assert await distant.count("ringpost.message WHERE state = 5") == 3, "one from before, none that nobody knows of"


async def lose_a_claim_for_long(distant: Distant, monkeypatch: pytest.MonkeyPatch) -> int:
    """Lose the answer of a claim until its caller is told of an error; give how many messages are held after that."""
    await distant.store.put([message() for _ in range(3)])
    lost = distant.proxy.lose_answer(distant.statements.runs("ORDER BY k.priority, k.seq"))
    with monkeypatch.context() as patch:
        patch.setattr(postgres_writer, "PATIENCE_S", 0.0)
        with pytest.raises(StoreError, match="whether it took this is not known"):
            await distant.store.claim({QUEUE: 2}, HOLDER, LEASE_S)
    assert lost.happened
    await distant.put()
    return await distant.count("ringpost.message WHERE state = 5")


async def test_a_claim_whose_caller_was_told_of_an_error_is_given_back(
    distant: Distant, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert await lose_a_claim_for_long(distant, monkeypatch) == 1, "the one from before, and none that nobody knows of"


async def test_a_renewal_is_asked_again(distant: Distant) -> None:
    renew = 'UPDATE "ringpost".message SET lease_ms'
    await asyncio.to_thread(distant.store.renew, HOLDER, LEASE_S)
    lost = distant.proxy.lose_answer(distant.statements.runs(renew))
    assert (await asyncio.to_thread(distant.store.renew, HOLDER, LEASE_S)).held == 1
    assert lost.happened


# --- a request is lost: it never takes effect by itself, and what it has locked is let go


@pytest.mark.usefixtures("doubtful")
@pytest.mark.parametrize("how", ["half open", "silence"])
async def test_a_commit_that_never_arrives(how: End, distant: Distant) -> None:
    distant.proxy.requests.cut(at=b"COMMIT", how=how)
    assert await distant.settled() == [True]
    assert await distant.count("effect") == 1


async def test_a_connection_that_leads_nowhere(distant: Distant) -> None:
    distant.proxy.black_hole()
    assert await distant.settled() == [True]


async def test_a_store_with_many_connections_that_lead_nowhere_is_closed_at_once(
    distant: Distant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres_link, "_CLOSE_S", CLOSE_S)
    await distant.rest_connections(CONNECTIONS_MAX)
    distant.proxy.black_hole()
    async with asyncio.timeout(CLOSE_S * CONNECTIONS_MAX):  # one after the other they take longer than that
        await distant.store.close()


@pytest.mark.usefixtures("doubtful")
async def test_the_question_about_what_is_lost_is_lost_as_well(distant: Distant) -> None:
    lost = distant.lose_the_question()
    distant.proxy.black_hole()
    assert await distant.settled() == [True]
    assert lost.happened


async def check_what_rests_goes_too(distant: Distant) -> None:
    assert distant.store._opened is not None
    await distant.rest_connections(4)
    distant.proxy.black_hole()
    assert await distant.settled() == [True]
    assert all(link.lost for link in distant.store._opened.pool._idle), "each would keep its next user waiting"


@pytest.mark.usefixtures("doubtful")
async def test_what_is_at_rest_beside_a_lost_connection_is_given_up_with_it(distant: Distant) -> None:
    await check_what_rests_goes_too(distant)


async def lose_on_the_way_in(distant: Distant, monkeypatch: pytest.MonkeyPatch) -> int:
    """Lose four connections whose first question is never answered; give how many sessions there were before."""
    monkeypatch.setattr(postgres_server, "CONNECT_S", 0.3)
    before = await distant.sessions()
    for _ in range(4):
        lost = distant.proxy.lose_answer(distant.statements.runs("server_version_num"), "silence")
        distant.proxy.half_open(gone="client")
        await distant.put()
        assert lost.happened
    return before


async def test_sessions_without_a_connection_are_ended(distant: Distant, monkeypatch: pytest.MonkeyPatch) -> None:
    before = await lose_on_the_way_in(distant, monkeypatch)
    async with asyncio.timeout(ANSWERED_S):
        while await distant.sessions() > before:  # noqa: ASYNC110 (the server tells nobody)
            await asyncio.sleep(0.02)


@pytest.mark.usefixtures("doubtful")
async def test_a_slow_statement_is_not_given_up(distant: Distant) -> None:
    assert distant.store._opened is not None
    connects, link = distant.proxy.connects, distant.store._opened.writer.link
    before = link._db
    distant.settlement.sql = [("SELECT pg_sleep(2)", ())]
    assert await distant.settled() == [True]
    assert distant.proxy.connects > connects, "the server was asked"
    assert link._db is before


async def check_all_close_at_once(distant: Distant, monkeypatch: pytest.MonkeyPatch) -> None:
    """No connection is closed only after another: each may have to wait for an answer that never comes."""
    await distant.rest_connections(1)
    await distant.store.depths()
    loop, begun, all_begun = asyncio.get_running_loop(), set[Db](), asyncio.Event()

    async def close(self: Db, timeout_s: float) -> None:
        if asyncio.get_running_loop() is loop:
            begun.add(self)
            if len(begun) == 3:  # the writer's, the one for reading, the one that rests
                all_begun.set()
            await all_begun.wait()
        self.terminate()

    with monkeypatch.context() as patch:
        patch.setattr(Db, "close", close)
        closing = asyncio.ensure_future(distant.store.close())
        done, _ = await asyncio.wait([closing], timeout=TWIN_S)
        all_begun.set()
        await closing
        assert done, "it closed one after the other"


async def test_all_connections_are_closed_at_once(distant: Distant, monkeypatch: pytest.MonkeyPatch) -> None:
    await check_all_close_at_once(distant, monkeypatch)


# --- broken twins


@pytest.mark.parametrize("name", ["_SETTLE", "_SETTLE_MORE"])
async def test_a_batch_that_is_settled_again_without_the_fence_writes_twice(
    name: str, distant: Distant, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = getattr(postgres_settle, name).replace(" AND m.fence = g.fence AND m.state + 0 = 5", "")
    assert broken != getattr(postgres_settle, name)
    monkeypatch.setattr(postgres_settle, name, broken)
    if name == "_SETTLE_MORE":
        distant.settlement.answer = Answer(200, b"1")
    distant.proxy.lose_answer(distant.statements.commits("SAVEPOINT deferred"))
    await distant.settled()
    assert await distant.count("effect") == 2


async def test_sql_that_runs_whoever_settled_it_writes_twice(distant: Distant, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres_deferred, "_due", lambda _turn, one: bool(one.sql))
    distant.proxy.lose_answer(distant.statements.commits("SAVEPOINT deferred"))
    await distant.settled()
    assert await distant.count("effect") == 2


async def test_a_put_that_is_repeated_under_a_new_id_is_there_twice(
    distant: Distant, monkeypatch: pytest.MonkeyPatch
) -> None:
    transact = Writer._transact

    async def forgetful(self: Writer, db: Db, asks: list[Ask], *, again: bool) -> Turn:
        for ask in asks if again else ():
            ask.messages = [replace(one, id=new_id()) for one in ask.messages]
        return await transact(self, db, asks, again=again)

    monkeypatch.setattr(Writer, "_transact", forgetful)
    distant.proxy.lose_answer(distant.statements.runs('INSERT INTO "ringpost".letter'))
    await distant.store.put([message()])
    assert await distant.count("ringpost.letter") == 3


async def test_without_giving_back_a_lost_claim_holds_what_nobody_knows_of(
    distant: Distant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Writer, "_give_back", _nothing)
    await distant.store.put([message() for _ in range(4)])
    distant.proxy.lose_answer(distant.statements.runs("ORDER BY k.priority, k.seq"))
    await distant.store.claim({QUEUE: 2}, HOLDER, LEASE_S)
    assert await distant.count("ringpost.message WHERE state = 5") == 5


async def test_without_giving_back_a_claim_that_was_given_up_is_held_as_well(
    distant: Distant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Writer, "_give_back", _nothing)
    assert await lose_a_claim_for_long(distant, monkeypatch) == 3


async def test_without_a_new_connection_it_is_stuck(distant: Distant, monkeypatch: pytest.MonkeyPatch) -> None:
    async def once(self: Link, until_s: float) -> Db:
        if self.lost:
            await asyncio.sleep(0.1)  # else it would ask a dead connection without a pause
        if self._db is None:
            self._db = await self._connected()
        return self._db

    with monkeypatch.context() as twin:
        twin.setattr(Link, "get", once)
        distant.proxy.reset()
        assert await distant.is_stuck(distant.settled(), twin)


@pytest.mark.usefixtures("doubtful")
async def test_without_the_vigil_it_waits_for_what_never_comes(
    distant: Distant, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as twin:
        twin.setattr(Vigil, "_doubt", _nothing)
        distant.proxy.black_hole()
        assert await distant.is_stuck(distant.settled(), twin)


@pytest.mark.usefixtures("doubtful")
async def test_without_a_limit_the_vigil_waits_for_what_never_comes(
    distant: Distant, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as twin:
        twin.setattr(postgres_vigil, "_ANSWER_S", 600.0)
        distant.lose_the_question()
        distant.proxy.black_hole()
        assert await distant.is_stuck(distant.settled(), twin)


@pytest.mark.usefixtures("doubtful")
async def test_who_gives_up_what_is_lost_alone_is_found_out(distant: Distant, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Vigil, "_give_up", lambda self, lost: [db.terminate() for db in lost])
    with pytest.raises(AssertionError, match="keep its next user waiting"):
        await check_what_rests_goes_too(distant)


async def test_who_forgets_lost_sessions_has_ever_more(distant: Distant, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Server, "_end_gone", _nothing)
    before = await lose_on_the_way_in(distant, monkeypatch)
    assert await distant.sessions() >= before + 3, "one of them may have been the bell's"


async def test_without_the_end_of_lost_sessions_it_waits_for_their_locks(
    distant: Distant, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as twin:
        twin.setattr(postgres_session, "end", _nothing)
        twin.setattr(Server, "_end_gone", _nothing)
        distant.proxy.requests.cut(at=b"COMMIT", how="half open")
        assert await distant.is_stuck(distant.settled(), twin)


async def test_who_closes_one_after_the_other_is_found_out(distant: Distant, monkeypatch: pytest.MonkeyPatch) -> None:
    async def in_turn(*closing: Awaitable[object]) -> None:
        for one in closing:
            await one

    monkeypatch.setattr(postgres_store, "asyncio", SimpleNamespace(**{**vars(asyncio), "gather": in_turn}))
    with pytest.raises(AssertionError, match="one after the other"):
        await check_all_close_at_once(distant, monkeypatch)


async def _nothing(*_arguments: object) -> None: ...
