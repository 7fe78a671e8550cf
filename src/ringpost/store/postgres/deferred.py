"""Settlements with SQL that their handlers deferred: a turn in one go, one by one only where some of it fails."""

from collections import defaultdict
from collections.abc import Mapping, Sequence

from ringpost.core.message import Settlement, Statement
from ringpost.store import users_sql
from ringpost.store.postgres import settle
from ringpost.store.postgres.db import Lost
from ringpost.store.postgres.turn import Turn

_SAVE, _UNDO, _KEEP = "SAVEPOINT deferred", "ROLLBACK TO SAVEPOINT deferred", "RELEASE SAVEPOINT deferred"


async def settle_all(
    turn: Turn, settlements: Sequence[Settlement], schema: str
) -> tuple[list[bool], Mapping[int, Exception]]:
    """Settle, one bool each; and what the SQL of some has raised, by their place. Nothing of those is applied."""
    deferring = [at for at, one in enumerate(settlements) if one.sql]
    if not deferring:
        return await settle.settle_all(turn, settlements), {}
    if len(deferring) == 1 == len(settlements):
        return await _one_by_one(turn, settlements, schema)
    kept = turn.mark()
    await turn.db.execute(_SAVE)
    try:
        settled = await settle.settle_all(turn, settlements)
        await _run(
            turn, [one.sql for one, done in zip(settlements, settled, strict=True) if done and _due(turn, one)], schema
        )
    except Lost:
        raise
    except Exception:  # noqa: BLE001 (whatever a statement raises; each is asked again by itself)
        await turn.db.execute(_UNDO)
        turn.reset(kept)
        return await _one_by_one(turn, settlements, schema)
    await turn.db.execute(_KEEP)
    return settled, {}


async def _one_by_one(
    turn: Turn, settlements: Sequence[Settlement], schema: str
) -> tuple[list[bool], Mapping[int, Exception]]:
    settled = [False] * len(settlements)
    failed: dict[int, Exception] = {}
    for at, one in enumerate(settlements):
        if not one.sql:
            (settled[at],) = await settle.settle_all(turn, [one])
            continue
        kept = turn.mark()
        await turn.db.execute(_SAVE)
        try:
            (settled[at],) = await settle.settle_all(turn, [one])
            if settled[at] and _due(turn, one):
                await _run(turn, [one.sql], schema)
        except Lost:
            raise
        except Exception as exc:  # noqa: BLE001 (whatever a statement raises is its handler's)
            await turn.db.execute(_UNDO)
            turn.reset(kept)
            settled[at], failed[at] = False, exc
        else:
            await turn.db.execute(_KEEP)
    return settled, failed


def _due(turn: Turn, one: Settlement) -> bool:
    """Say whether a settlement has SQL that is still to be run: not where an earlier try has committed both."""
    return bool(one.sql) and (one.delivery.ref, one.delivery.fence) not in turn.settled_before


async def _run(turn: Turn, lists: Sequence[Sequence[Statement]], schema: str) -> None:
    """Run the statements of many: the first of all, then the second of all, those with one text together."""
    for place in range(max([len(statements) for statements in lists], default=0)):
        texts: defaultdict[str, list[Sequence[object]]] = defaultdict(list)
        for statements in lists:
            if place < len(statements):
                text, values = users_sql.positional(statements[place])
                texts[text].append(values)
        for text, rows in texts.items():
            users_sql.check(text, schema, shared=True)
            if len(rows) == 1:
                await turn.db.user_fetch(text, *rows[0])
            else:
                await turn.db.user_repeat(text, rows)
