"""The tables of a SQLite store, how they came to be, and how a file is opened so that its promises hold.

A change of the tables is one more step in `STEPS`; each step is one transaction. The columns of `ringpost_message` keep
their width from put to end, so that SQLite overwrites a row in place: codes start at 2 (0 and 1 take no bytes), an
instant that is not yet known is the negative of the creation time, leases are shifted by 2^40, and counters start at 2.
"""

import os
import secrets
from contextlib import ExitStack
from pathlib import Path
from typing import Any, cast

import apsw

from ringpost.contract.errors import StoreError
from ringpost.store.migration import Step, missing, needs_after
from ringpost.store.sqlite.db import Db, first

SQLITE_MIN = 3_051_003  # before it a race of two checkpointing connections could corrupt the file
PAGE_BYTES = 4096
CACHE_KIB = 16 * 1024
BUSY_MS = 10_000
FIRST_FENCE = 1 << 24
FENCE_LEAP = 1 << 20
NETWORK_FILE_SYSTEMS = {
    *(
        "nfs",
        "nfs4",
        "cifs",
        "smb3",
        "smbfs",
        "ncpfs",
        "afs",
        "coda",
        "9p",
        "ceph",
        "glusterfs",
        "lustre",
        "gfs",
        "gfs2",
    ),
    *("ocfs2", "beegfs", "pvfs2", "davfs", "virtiofs", "prl_fs", "vboxsf", "fuse.sshfs", "fuse.glusterfs"),
    *("fuse.ceph", "fuse.s3fs", "fuse.davfs2", "fuse.rclone"),
}

TABLES = """
CREATE TABLE ringpost_meta (key TEXT PRIMARY KEY, value ANY) STRICT, WITHOUT ROWID;
CREATE TABLE ringpost_message (
  seq INTEGER PRIMARY KEY AUTOINCREMENT,
  id BLOB NOT NULL, queue INTEGER NOT NULL, kind INTEGER NOT NULL, state INTEGER NOT NULL, priority INTEGER NOT NULL,
  due_ms INTEGER NOT NULL, fence INTEGER NOT NULL, holder INTEGER NOT NULL, lease_ms INTEGER NOT NULL,
  attempts INTEGER NOT NULL, losses INTEGER NOT NULL, generation INTEGER NOT NULL, keep_s INTEGER NOT NULL,
  created_ms INTEGER NOT NULL, started_ms INTEGER NOT NULL, settled_ms INTEGER NOT NULL, cancel_ms INTEGER NOT NULL,
  cause INTEGER NOT NULL, status INTEGER NOT NULL, expires_ms INTEGER,
  line BLOB, dedup BLOB, digest BLOB, caller TEXT, crc BLOB NOT NULL
) STRICT;
-- Written once, read at claim. Beside the hot row, not in it: claims and settlements then never touch a body. Measured
-- (drain of 80 B, 1, 4, 20 kB bodies): 109-139, 77-89, 58-91, 14-21 k/s in the row, 102-178, 110-165, 94-131, 41 k/s
-- beside it, 620 instead of 1,100 to 12,000 bytes written a message; putting costs the same.
CREATE TABLE ringpost_payload (seq INTEGER PRIMARY KEY, headers BLOB NOT NULL, body BLOB NOT NULL) STRICT;
CREATE UNIQUE INDEX ringpost_message_id ON ringpost_message(id);
CREATE INDEX ringpost_message_ready ON ringpost_message(queue, priority, seq) WHERE state = 4;
CREATE INDEX ringpost_message_scheduled ON ringpost_message(due_ms) WHERE state = 2;
CREATE INDEX ringpost_message_running ON ringpost_message(holder) WHERE state = 5;
CREATE INDEX ringpost_message_expires ON ringpost_message(expires_ms)
  WHERE expires_ms IS NOT NULL AND state IN (2, 3, 4);
CREATE UNIQUE INDEX ringpost_message_dedup ON ringpost_message(dedup) WHERE dedup IS NOT NULL;
CREATE INDEX ringpost_message_away ON ringpost_message(queue, seq) WHERE state = 6;
CREATE INDEX ringpost_message_dead ON ringpost_message(queue, seq) WHERE state = 14;
-- Who stands in a line: place 2 is whose turn it is, 3 those who wait. Messages without a key never touch it.
CREATE TABLE ringpost_line (
  line BLOB, place INTEGER, seq INTEGER, PRIMARY KEY (line, place, seq)
) STRICT, WITHOUT ROWID;
CREATE TABLE ringpost_outcome (
  seq INTEGER PRIMARY KEY, content_type TEXT, retry_after_s REAL, processed INTEGER, body BLOB
) STRICT;
CREATE TABLE ringpost_failure (
  seq INTEGER, slot INTEGER, detail TEXT, PRIMARY KEY (seq, slot)
) STRICT, WITHOUT ROWID;
CREATE TABLE ringpost_progress (seq INTEGER PRIMARY KEY, at_ms INTEGER, share REAL, note TEXT) STRICT;
CREATE TABLE ringpost_queue (
  no INTEGER PRIMARY KEY, name TEXT UNIQUE NOT NULL, ready INTEGER NOT NULL, waiting INTEGER NOT NULL,
  scheduled INTEGER NOT NULL, dead INTEGER NOT NULL, bytes INTEGER NOT NULL, puts INTEGER NOT NULL,
  ends INTEGER NOT NULL, kept INTEGER NOT NULL  -- bytes: of the living, kept: of those that have ended
) STRICT;
CREATE TABLE ringpost_note (
  name TEXT PRIMARY KEY, version INTEGER NOT NULL, lease_ms INTEGER, value BLOB NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE ringpost_mark (minute INTEGER PRIMARY KEY, seq INTEGER NOT NULL) STRICT;
CREATE TABLE ringpost_cursor (
  name TEXT PRIMARY KEY, lag_s INTEGER NOT NULL, seq INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE ringpost_audit (at_ms INTEGER, who TEXT, what TEXT, id BLOB, detail TEXT) STRICT;
"""
LOG = """
-- Events that are kept, of all events in one table: a place is never given twice, whatever is purged.
CREATE TABLE ringpost_log (
  pos INTEGER PRIMARY KEY AUTOINCREMENT, event TEXT NOT NULL, at_ms INTEGER NOT NULL, until_ms INTEGER NOT NULL,
  keep_s INTEGER NOT NULL, due_ms INTEGER, expires_ms INTEGER, caller TEXT,
  receivers TEXT NOT NULL,  -- numbers of the queues that got a delivery with the publish: ,3,14,
  crc BLOB NOT NULL, id BLOB NOT NULL, line BLOB, headers BLOB NOT NULL, body BLOB NOT NULL
) STRICT;
CREATE UNIQUE INDEX ringpost_log_id ON ringpost_log(id);
CREATE INDEX ringpost_log_event ON ringpost_log(event, pos);
CREATE INDEX ringpost_log_until ON ringpost_log(until_ms);
"""

# Step n brings a file from version n to n + 1.
STEPS: tuple[Step, ...] = (Step(TABLES), Step(LOG))


def place(path: Path, *, create: bool) -> None:
    """Refuse what can't hold a store, before anything is written there; make the file where it is missing.

    Raises StoreError: no such file or folder, a network file system, an old SQLite.
    """
    if library_version() < SQLITE_MIN:
        raise StoreError(f"SQLite {apsw.sqlite_lib_version()} can corrupt a shared file; install apsw 3.51.3 or later")
    missing = not path.exists()
    if missing and not create:
        raise StoreError(f"there is no store at {path}; `ringpost run` with this URL creates it")
    if missing and not path.parent.is_dir():
        raise StoreError(f"the folder {path.parent} for the store does not exist; create it or set another `store`")
    refuse_network(path.parent)
    if missing:  # created here, so that it never has wider rights, not for a moment
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))


def connect(path: Path) -> Db:
    """Open the file with every setting that the promises rest on, and read them back.

    Needs the turn: a new file gets its write-ahead log here, and SQLite lets nobody wait for another who does the same.
    Raises StoreError: not a database, or a setting that doesn't hold.
    """
    try:
        with ExitStack() as opened:  # what fails is closed here and now, not when nobody knows of it any more
            db = cast(Db, apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READWRITE))
            opened.callback(db.close)
            _configure(db)
            opened.pop_all()
    except apsw.NotADBError as exc:
        raise StoreError(f"{path} is not a SQLite database; name another file as `store`") from exc
    except apsw.Error as exc:
        raise StoreError(f"the store {path} can't be opened: {exc}") from exc
    return db


def library_version() -> int:
    major, minor, patch = (int(part) for part in apsw.sqlite_lib_version().split(".")[:3])
    return major * 1_000_000 + minor * 1_000 + patch


def _configure(db: Db) -> None:
    db.set_busy_timeout(BUSY_MS)
    db.pragma("page_size", PAGE_BYTES)  # holds only for a new file
    if db.pragma("journal_mode", "wal") != "wal":
        raise StoreError(
            "the file system can't hold a write-ahead log (no shared memory); put the store on a local disk"
        )
    db.pragma("wal_autocheckpoint", 0)
    db.pragma("cache_size", -CACHE_KIB)
    db.pragma("synchronous", 2)
    db.pragma("trusted_schema", 0)
    db.pragma("cell_size_check", 1)
    db.pragma("foreign_keys", 1)  # for the tables of users: ours have none
    if db.pragma("synchronous") != 2:
        raise StoreError("SQLite does not keep synchronous = FULL, so a receipt would not be durable")


def refuse_network(folder: Path) -> None:
    """Refuse a folder on a network file system: locks and shared memory don't hold there."""
    kind = file_system(folder)
    if kind in NETWORK_FILE_SYSTEMS:
        raise StoreError(f"{folder} is on a network file system ({kind}), where SQLite loses data; use a local disk")


def file_system(folder: Path, mounts: Path = Path("/proc/self/mountinfo")) -> str:
    """Give the type of the file system that a folder is on; empty where the host doesn't tell."""
    try:
        lines = mounts.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    real, best, kind = f"{os.path.realpath(folder).rstrip('/')}/", "", ""
    for line in lines:
        before, _, after = line.partition(" - ")
        point = before.split(" ")[4].replace("\\040", " ").rstrip("/") + "/"
        if real.startswith(point) and len(point) >= len(best):
            best, kind = point, after.split(" ", 1)[0]
    return kind


def migrate(db: Db, boot: str, *, create: bool) -> None:
    """Bring the tables to this code's version, each step in a transaction of its own; needs the turn.

    Raises StoreError where the file is from newer code, or is some other program's database.
    """
    version, needs = versions_of(db)
    lacking = missing(version, needs, STEPS)
    if version == 0 and not create:
        raise StoreError("the file holds no Ringpost store; `ringpost run` with this URL creates it")
    for number in lacking:
        needs = needs_after(STEPS[number], number, needs)
        with db:
            db.execute(STEPS[number].sql).fetchall()
            if number == 0:
                _found(db, boot)
            write_meta(db, "schema", number + 1)
            write_meta(db, "needs", needs)


def versions_of(db: Db) -> tuple[int, int]:
    """Give how many steps the tables have seen, and how many code must know to use them."""
    if not db.execute("SELECT 1 FROM sqlite_schema WHERE name = 'ringpost_meta'").fetchall():
        return 0, 0
    version = int(read_meta(db, "schema") or 0)
    return version, int(read_meta(db, "needs") or version)


def _found(db: Db, boot: str) -> None:
    for key, value in (
        ("store_id", secrets.token_hex(8)),
        ("fence", FIRST_FENCE),
        ("boot_id", boot),
        ("notes", 1),
    ):
        write_meta(db, key, value)
    db.execute("INSERT INTO sqlite_sequence(name, seq) VALUES ('ringpost_message', 0)")


def note_boot(db: Db, boot: str) -> None:
    """After a restart of the host: leases of the old boot are void, and fences leap over those that a lost log may
    have given out. Needs the turn."""
    if read_meta(db, "boot_id") == boot:
        return
    with db:
        write_meta(db, "boot_id", boot)
        db.execute("UPDATE ringpost_meta SET value = value + ? WHERE key = 'fence'", (FENCE_LEAP,))
        db.execute("UPDATE ringpost_message SET lease_ms = 2 WHERE state = 5")
        db.execute("DELETE FROM ringpost_note WHERE lease_ms IS NOT NULL")
        db.execute("UPDATE ringpost_meta SET value = value + 1 WHERE key = 'notes'")


def accept_loss(db: Db, marked: int, lost: str, now_ms: int) -> None:
    """Go on after a lost tail, without giving its numbers out again."""
    with db:
        db.execute("UPDATE sqlite_sequence SET seq = ? WHERE name = 'ringpost_message'", (marked,))
        db.execute("UPDATE ringpost_meta SET value = value + ? WHERE key = 'fence'", (FENCE_LEAP,))
        db.execute(
            "INSERT INTO ringpost_audit(at_ms, who, what, detail) VALUES (?, 'open', 'accept_loss', ?)", (now_ms, lost)
        )


def read_meta(db: Db, key: str) -> Any:
    """Give a value of the register, None where there is none."""
    found = db.execute("SELECT value FROM ringpost_meta WHERE key = ?", (key,)).fetchall()
    return found[0][0] if found else None


def write_meta(db: Db, key: str, value: Any) -> None:
    db.execute("INSERT OR REPLACE INTO ringpost_meta(key, value) VALUES (?, ?)", (key, value))


def last_seq(db: Db) -> int:
    """Give the highest sequence number that a message ever had; it never falls, whatever is removed."""
    return int(first(db, "SELECT seq FROM sqlite_sequence WHERE name = 'ringpost_message'"))
