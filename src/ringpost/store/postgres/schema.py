"""The tables of a PostgreSQL store, in a schema of their own; and bringing them to this code's version.

What was put and never changes (`letter`) stands apart from what becomes of it (`message`): every change of state writes
a new version of a row and an entry for it in each index that holds, so the row that changes is narrow and has few.
There is no counter that all would wait for: `tally` only grows by a row a commit, and upkeep folds it into `queue`.
"""

import secrets

from ringpost.contract.errors import StoreError
from ringpost.store.migration import Step, missing, needs_after
from ringpost.store.postgres.db import Db

FIRST_FENCE = 1 << 24
_OWN = 0x72696E67706F7374  # the advisory lock under which tables are made: "ringpost"

# The schema's name is a name of our own choosing (checked by `server.py`), so it can stand in the text.
TABLES = f"""
CREATE TABLE ringpost.meta (key text PRIMARY KEY, value text NOT NULL);
CREATE SEQUENCE ringpost.fence START {FIRST_FENCE + 1};
CREATE SEQUENCE ringpost.seq;
-- The store's clock. Tests put another in its place.
CREATE FUNCTION ringpost.now_ms() RETURNS bigint LANGUAGE sql STABLE PARALLEL SAFE
  AS 'SELECT floor(extract(epoch FROM statement_timestamp()) * 1000)::bigint';
CREATE TABLE ringpost.letter (
  seq bigint PRIMARY KEY DEFAULT nextval('ringpost.seq'), id bytea NOT NULL, dedup bytea, digest bytea, caller text,
  crc bigint NOT NULL, headers bytea NOT NULL, body bytea NOT NULL
);
CREATE UNIQUE INDEX letter_id ON ringpost.letter (id);
CREATE UNIQUE INDEX letter_dedup ON ringpost.letter (dedup) WHERE dedup IS NOT NULL;
CREATE TABLE ringpost.message (
  seq bigint PRIMARY KEY, due_ms bigint NOT NULL, created_ms bigint NOT NULL, fence bigint NOT NULL DEFAULT 0,
  holder bigint NOT NULL DEFAULT 0, lease_ms bigint NOT NULL DEFAULT 0, queue int NOT NULL, size int NOT NULL,
  keep_s int NOT NULL, attempts int NOT NULL DEFAULT 0, losses int NOT NULL DEFAULT 0,
  generation int NOT NULL DEFAULT 1, kind smallint NOT NULL, state smallint NOT NULL, priority smallint NOT NULL,
  cause smallint NOT NULL DEFAULT 2, keyed boolean NOT NULL, status smallint, expires_ms bigint, started_ms bigint,
  settled_ms bigint, purge_ms bigint, cancel_ms bigint, line bytea
);
CREATE INDEX message_ready ON ringpost.message (queue, priority, seq) WHERE state = 4;
CREATE INDEX message_suspect ON ringpost.message (queue, priority, seq) WHERE state = 4 AND losses >= 2;
CREATE INDEX message_scheduled ON ringpost.message (due_ms) WHERE state = 2;
CREATE INDEX message_waiting ON ringpost.message (queue, seq) WHERE state = 3;
CREATE INDEX message_running ON ringpost.message (holder) WHERE state = 5;
CREATE INDEX message_away ON ringpost.message (queue, seq) WHERE state = 6;
CREATE INDEX message_dead ON ringpost.message (queue, seq) WHERE state = 14;
CREATE INDEX message_expires ON ringpost.message (expires_ms) WHERE expires_ms IS NOT NULL AND state IN (2, 3, 4);
CREATE INDEX message_purge ON ringpost.message (purge_ms, seq) WHERE state >= 10;
-- Who stands in a line: place 2 is whose turn it is, 3 those who wait. Messages without a key never touch it.
CREATE TABLE ringpost.line (line bytea, place smallint, seq bigint, PRIMARY KEY (line, place, seq));
CREATE TABLE ringpost.outcome (
  seq bigint PRIMARY KEY, content_type text NOT NULL, retry_after_s double precision, processed boolean NOT NULL,
  body bytea NOT NULL
);
CREATE TABLE ringpost.failure (seq bigint, slot smallint, detail bytea NOT NULL, PRIMARY KEY (seq, slot));
CREATE TABLE ringpost.progress (seq bigint PRIMARY KEY, at_ms bigint NOT NULL, share double precision, note text);
CREATE TABLE ringpost.queue (
  no int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name text UNIQUE NOT NULL, puts bigint NOT NULL DEFAULT 0,
  ends bigint NOT NULL DEFAULT 0, live bigint NOT NULL DEFAULT 0, bytes bigint NOT NULL DEFAULT 0,
  kept bigint NOT NULL DEFAULT 0  -- bytes: of the living, kept: of those that have ended
);
CREATE TABLE ringpost.tally (
  queue int NOT NULL, puts bigint NOT NULL, ends bigint NOT NULL, live bigint NOT NULL, bytes bigint NOT NULL,
  kept bigint NOT NULL
);
CREATE TABLE ringpost.note (
  name text COLLATE "C" PRIMARY KEY, version bigint NOT NULL, lease_ms bigint, value bytea NOT NULL
);
CREATE TABLE ringpost.audit (at_ms bigint, who text, what text, id bytea, detail text);
"""
# A queue's rows die as fast as they are born: clean by the thousand, not by a fifth of what there ever was.
_BUSY = ("letter", "message", "line", "outcome", "failure", "progress", "tally")
VACUUM = "".join(
    f"ALTER TABLE ringpost.{table} SET (autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_threshold = 2000,"
    " autovacuum_vacuum_insert_scale_factor = 0.1, autovacuum_analyze_scale_factor = 0.05,"
    " autovacuum_vacuum_cost_delay = 1);\n"
    for table in _BUSY
)

LOG = """
-- Events that are kept, of all events in one table.
CREATE TABLE ringpost.log (
  pos bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, event text COLLATE "C" NOT NULL, until_ms bigint NOT NULL,
  keep_s int NOT NULL, due_ms bigint, expires_ms bigint, caller text,
  receivers int[] NOT NULL,  -- numbers of the queues that got a delivery with the publish
  crc bigint NOT NULL, id bytea NOT NULL, line bytea, headers bytea NOT NULL, body bytea NOT NULL
);
CREATE UNIQUE INDEX log_id ON ringpost.log (id);
CREATE INDEX log_event ON ringpost.log (event, pos);
CREATE INDEX log_until ON ringpost.log (until_ms);
"""

SETTLE_ONE = """
-- Settle a row that ends and stays, in the round trip of a COMMIT. A query that ends with COMMIT can't ask what came
-- before, so a lost fence is an error, which keeps COMMIT from coming. Its plan is made once for a session, perhaps
-- when there were few rows: it must not read all.
CREATE FUNCTION ringpost.settle_one(
  in ref bigint, in held bigint, in goal int, in answered int, in why int, in charge int
) RETURNS void LANGUAGE plpgsql SET enable_seqscan = off AS $$
DECLARE
  won record;
BEGIN
  UPDATE ringpost.message m SET state = goal, status = answered, cause = why, attempts = m.attempts + charge,
    holder = 0, settled_ms = ringpost.now_ms(), purge_ms = ringpost.now_ms() + 1000::bigint * m.keep_s
  WHERE m.seq = ref AND m.fence = held AND m.state + 0 = 5 RETURNING m.queue, m.kind, m.size INTO won;
  IF NOT FOUND THEN
    RAISE EXCEPTION 'the fence of row % was lost', ref USING ERRCODE = 'RP001';
  END IF;
  IF won.kind = 2 THEN
    INSERT INTO ringpost.tally VALUES (won.queue, 0, 1, -1, -won.size, won.size);
  END IF;
END $$;
"""

# Step n brings a schema from version n to n + 1.
STEPS: tuple[Step, ...] = (Step(TABLES + VACUUM), Step(LOG), Step(SETTLE_ONE))


_READ_VERSIONS = "SELECT key, value FROM ringpost.meta WHERE key IN ('schema', 'needs')"
_NOTE_VERSION = "INSERT INTO ringpost.meta VALUES ($1, $2) ON CONFLICT (key) DO UPDATE SET value = $2"


async def migrate(db: Db, schema: str, *, create: bool) -> str:
    """Bring the tables to this code's version, each step in a transaction of its own, one process at a time. Gives the
    id of the store.

    Raises StoreError where there is no store and none is to be created, or where it is from newer code.
    """
    version, needs = await _versions(db, schema)
    missing(version, needs, STEPS)
    if version == 0 and not create:
        raise StoreError(
            f"the database holds no Ringpost store (no schema {schema!r}); `ringpost run` with this URL creates it"
        )
    while version < len(STEPS):
        version = await _step(db, schema)
    return str((await db.fetch("SELECT value FROM ringpost.meta WHERE key = 'store_id'"))[0][0])


async def _step(db: Db, schema: str) -> int:
    await db.execute("BEGIN")
    try:
        await db.fetch("SELECT pg_advisory_xact_lock($1)", _OWN)
        version, needs = await _versions(db, schema)  # another process may have been quicker, also one of newer code
        if missing(version, needs, STEPS):
            if version == 0:
                await _make_schema(db, schema)
            await db.execute(STEPS[version].sql)
            if version == 0:
                await db.fetch("INSERT INTO ringpost.meta VALUES ('store_id', $1)", secrets.token_hex(8))
            needs = needs_after(STEPS[version], version, needs)
            version += 1
            for key, value in (("schema", version), ("needs", needs)):
                await db.fetch(_NOTE_VERSION, key, str(value))
        await db.execute("COMMIT")
    except BaseException:
        await db.roll_back()
        raise
    return version


async def _make_schema(db: Db, schema: str) -> None:
    """Make the schema where it isn't there: who may not create one can be given one."""
    if not await db.fetch("SELECT 1 FROM pg_namespace WHERE nspname = $1", schema):
        await db.execute(f'CREATE SCHEMA "{schema}"')


async def _versions(db: Db, schema: str) -> tuple[int, int]:
    """Give how many steps the tables have seen, and how many code must know to use them."""
    known = await db.fetch("SELECT 1 FROM pg_tables WHERE schemaname = $1 AND tablename = 'meta'", schema)
    if not known:
        return 0, 0
    found = dict([(row[0], int(row[1])) for row in await db.fetch(_READ_VERSIONS)])
    return found["schema"], found.get("needs", found["schema"])
