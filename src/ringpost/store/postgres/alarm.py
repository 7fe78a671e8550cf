"""What makes a queue in PostgreSQL slow from outside: transactions that stay open, and rows that nobody cleans up.

As long as any transaction is open, of whatever program, no row that died since it began can be removed; each claim then
walks past all of them.
"""

from ringpost.store.postgres.db import Db

OLD_S = 60.0
DEAD_MIN = 100_000  # rows, and more than are alive
EVERY_S = 60.0  # how often a process looks

_OLD = (
    "SELECT pid, coalesce(usename, '?'), coalesce(nullif(application_name, ''), '?'), coalesce(state, '?'),"
    " extract(epoch FROM clock_timestamp() - xact_start)::float8 FROM pg_stat_activity"
    " WHERE datname = current_database() AND xact_start < clock_timestamp() - make_interval(secs => $1)"
    " AND backend_type = 'client backend' AND pid <> pg_backend_pid() ORDER BY xact_start LIMIT 3"
)
_PREPARED = (
    "SELECT gid, extract(epoch FROM clock_timestamp() - prepared)::float8 FROM pg_prepared_xacts"
    " WHERE database = current_database() AND prepared < clock_timestamp() - make_interval(secs => $1)"
    " ORDER BY prepared LIMIT 3"
)
_DEAD = (
    "SELECT relname, n_dead_tup, n_live_tup FROM pg_stat_user_tables"
    " WHERE relid = ANY(ARRAY['ringpost.message', 'ringpost.letter', 'ringpost.tally', 'ringpost.line']::regclass[])"
    " AND n_dead_tup > $1 AND n_dead_tup > n_live_tup ORDER BY n_dead_tup DESC"
)


async def alarms(db: Db, old_s: float = OLD_S) -> list[str]:
    """Say what is wrong and what to do; nothing where all is well. Others' transactions show only to who may see them
    (the role `pg_monitor`)."""
    found = [
        f"a transaction of {user} ({application}, pid {pid}, {state}) has been open for {age_s:.0f} s: nothing can be"
        f" cleaned up behind it; end it, or SELECT pg_terminate_backend({pid})"
        for pid, user, application, state, age_s in await db.fetch(_OLD, old_s)
    ]
    found += [
        f"the prepared transaction {gid!r} has been open for {age_s:.0f} s: COMMIT PREPARED or ROLLBACK PREPARED it"
        for gid, age_s in await db.fetch(_PREPARED, old_s)
    ]
    found += [
        f"the table {table} has {dead:,} dead rows beside {live:,}: autovacuum doesn't keep up; see whether it runs,"
        " and what transactions are open"
        for table, dead, live in await db.fetch(_DEAD, DEAD_MIN)
    ]
    return found
