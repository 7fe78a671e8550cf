"""Broken twins of transactions: SQLite stores that each break one promise, and the suite fails each."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from ringpost.core.message import Message, Settlement, Statement
from ringpost.settings import Settings
from ringpost.store.hostclock import HostClock
from ringpost.store.port import Store
from ringpost.store.sqlite import deferred as sqlite_deferred
from ringpost.store.sqlite import guard as sqlite_guard
from ringpost.store.sqlite import settle as sqlite_settle
from ringpost.store.sqlite import store as sqlite
from ringpost.store.sqlite.db import first
from ringpost.store.sqlite.rows import decode_pairs, seqs
from ringpost.store.sqlite.store import SqliteStore
from ringpost.store.sqlite.transaction import SqliteTransaction
from ringpost.store.sqlite.turn import Turn
from ringpost.testing.conformance import Advance, Violation, check, transactions

BEGIN_MS = 1_800_000_000_000
Break = Callable[[pytest.MonkeyPatch], None]


def settles_in_another_transaction(patch: pytest.MonkeyPatch) -> None:
    """What was written is committed first, and the settlement, which may fail, after it."""
    commit = SqliteTransaction.commit

    async def apart(
        self: SqliteTransaction,
        settlement: Settlement | None,
        staged: Sequence[Message] = (),
        sql: Sequence[Statement] = (),
    ) -> bool:
        if settlement is None:
            return await commit(self, None, staged, sql)
        await commit(self, None, settlement.staged, settlement.sql)
        store: Any = self._means
        settled: list[bool] = await store.settle([Settlement(settlement.delivery, settlement.to, settlement.answer)])
        return settled[0]

    patch.setattr(SqliteTransaction, "commit", apart)


def ignores_the_fence(patch: pytest.MonkeyPatch) -> None:
    def running(turn: Turn, settlements: Sequence[Settlement]) -> list[bool]:
        found = first(turn.db, sqlite_settle._RUNNING, (seqs([one.delivery.ref for one in settlements]),))
        return [one.delivery.ref in dict(decode_pairs(found)) for one in settlements]

    patch.setattr(sqlite_settle, "held", running)
    patch.setattr(sqlite_settle, "_SETTLE", sqlite_settle._SETTLE.replace("fence = ?7", "?7 IS NOT NULL"))


def forgets_what_was_deferred(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(sqlite_deferred, "run_all", lambda *given: None)


def lets_neighbours_fail(patch: pytest.MonkeyPatch) -> None:
    run_each = sqlite_deferred.run_each

    def all_or_none(db: Any, guard: Any, parts: Sequence[Any], *given: Any) -> sqlite_deferred.Failures:
        failures = run_each(db, guard, parts, *given)
        return {place: next(iter(failures.values())) for place in range(len(parts))} if failures else {}

    patch.setattr(sqlite_deferred, "run_each", all_or_none)


def settles_what_failed(patch: pytest.MonkeyPatch) -> None:
    run_each = sqlite_deferred.run_each
    patch.setattr(sqlite_deferred, "run_each", lambda *given: run_each(*given) and {})


def has_no_authorizer(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(sqlite_guard.Guard, "_authorize", lambda *given: 0)


def commits_a_rehearsal(patch: pytest.MonkeyPatch) -> None:
    async def committed(self: SqliteTransaction, sql: Sequence[Statement] = ()) -> None:
        await self.commit(None, (), sql)

    patch.setattr(SqliteTransaction, "rehearse", committed)


def rehearses_nothing(patch: pytest.MonkeyPatch) -> None:
    async def undone(self: SqliteTransaction, sql: Sequence[Statement] = ()) -> None:
        await self.rollback()

    patch.setattr(SqliteTransaction, "rehearse", undone)


def claims_to_have_sql_no_more(patch: pytest.MonkeyPatch) -> None:
    """Begins, though it says that it can't."""
    patch.setattr(sqlite, "CAPABILITIES", sqlite.CAPABILITIES - {"sql"})


TWINS: Sequence[Break] = [
    settles_in_another_transaction,
    ignores_the_fence,
    forgets_what_was_deferred,
    lets_neighbours_fail,
    settles_what_failed,
    has_no_authorizer,
    commits_a_rehearsal,
    rehearses_nothing,
    claims_to_have_sql_no_more,
]


@pytest.mark.parametrize("twin", TWINS, ids=lambda twin: twin.__name__)
async def test_the_suite_fails_a_store_that_breaks_a_promise(
    twin: Break, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    twin(monkeypatch)
    for number, case in enumerate(transactions.CHAPTER):

        def make(settings: Settings, number: int = number) -> tuple[Store, Advance]:
            passed_ms = 0

            def advance(seconds: float) -> None:
                nonlocal passed_ms
                passed_ms += round(seconds * 1000)

            clock = HostClock(lambda: BEGIN_MS + passed_ms, lambda: 1_000_000 + passed_ms)
            return SqliteStore(tmp_path / f"{number}.db", settings, clock=clock), advance

        try:
            await check(case, make)
        except Violation:
            return
    raise AssertionError("the suite found nothing")
