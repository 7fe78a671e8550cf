"""A session of ours on the server, seen from another one: whether it still works for us, and its end.

A connection that is lost here may live on there, with locks that nobody gives back, or with a statement that only now
arrives. What it has done is known for sure once it is over. It is told from a later one of the same process number by
when it began.
"""

from collections.abc import Sequence

from ringpost.contract.errors import StoreError
from ringpost.store.postgres.db import Db, Session, is_forbidden

OWN = "pg_backend_pid(), (SELECT backend_start FROM pg_stat_activity WHERE pid = pg_backend_pid())"
_END_MS = 2000  # how long its end is waited for
# One that has committed and waits for a standby is left alone: it would be seen as done before it is safe.
_END = (
    "SELECT wait_event IS DISTINCT FROM 'SyncRep' AND pg_terminate_backend(pid, $3) FROM pg_stat_activity"
    " WHERE pid = $1 AND backend_start = $2"
)
# Who is idle, or waits for us, while we wait for its answer, will never give it.
_AT_WORK = (
    "SELECT s.pid FROM unnest($1::int[], $2::timestamptz[]) AS given(pid, began)"
    " JOIN pg_stat_activity s ON s.pid = given.pid AND s.backend_start = given.began"
    " WHERE NOT starts_with(coalesce(s.state, ''), 'idle') AND s.wait_event_type IS DISTINCT FROM 'Client'"
)


async def end(db: Db, session: Session) -> None:
    """End another session, and wait until it is over: what it has not committed by then it never will. Raises
    StoreError where it isn't over in 2 s; repeating it is safe."""
    try:
        found = await db.fetch(_END, session.pid, session.began, _END_MS)
    except Exception as exc:
        if is_forbidden(exc):  # of a role that is another one by now: nothing can be done but to go on
            return
        raise
    if found and not found[0][0]:
        raise StoreError(f"the session {session.pid} of a connection that was lost isn't over on the server yet")


async def at_work(db: Db, sessions: Sequence[Session]) -> set[Session]:
    """Give those of the sessions that work on something."""
    pids, began = [one.pid for one in sessions], [one.began for one in sessions]
    working = {row[0] for row in await db.fetch(_AT_WORK, pids, began)}
    return {one for one in sessions if one.pid in working}
