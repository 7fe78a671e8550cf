"""A session of ours on the server, seen from another one: whether it still works for us, and its end.

A connection that is lost here may live on there, with locks that nobody gives back, or with a statement that only now
arrives. What it has done is known for sure once it is over. Each has a name of its own, its `application_name`, under
which it is found also where nothing ever came back from it.
"""

from collections.abc import Sequence

from ringpost.contract.errors import StoreError
from ringpost.store.postgres.db import Db, Forbidden

_END_MS = 2000  # how long its end is waited for
# One that has committed and waits for a standby is left alone: it would be seen as done before it is safe.
_END = (
    "SELECT wait_event IS DISTINCT FROM 'SyncRep' AND pg_terminate_backend(pid, $2) FROM pg_stat_activity"
    " WHERE application_name = ANY($1::text[])"
)
# Who is idle, or waits for us, while we wait for its answer, will never give it.
_AT_WORK = (
    "SELECT application_name FROM pg_stat_activity WHERE application_name = ANY($1::text[])"
    " AND NOT starts_with(coalesce(state, ''), 'idle') AND wait_event_type IS DISTINCT FROM 'Client'"
)


async def end(db: Db, session: str) -> None:
    """End another session, and wait until it is over: what it has not committed by then it never will. Raises
    StoreError where it isn't over in 2 s; repeating it is safe."""
    if not all(await _ended(db, [session], _END_MS)):
        raise StoreError(f"the session {session!r} of a connection that was lost isn't over on the server yet")


async def end_soon(db: Db, sessions: Sequence[str]) -> None:
    """Have other sessions ended, and don't wait for it."""
    await _ended(db, sessions, 0)


async def at_work(db: Db, sessions: Sequence[str]) -> set[str]:
    """Give those of the sessions that work on something."""
    return {row[0] for row in await db.fetch(_AT_WORK, sessions)}


async def _ended(db: Db, sessions: Sequence[str], wait_ms: int) -> list[bool]:
    try:
        return [row[0] for row in await db.fetch(_END, sessions, wait_ms)]
    except Forbidden:  # they are of a role that is another one by now: nothing can be done but to go on
        return []
