"""What the text of a handler's statement tells: whether it may write, and whether it ends the transaction."""

import pytest

from ringpost.store.users_sql import ends, may_write

READS = [
    "SELECT 1",
    " -- INSERT\nSELECT name FROM t",
    "SELECT 'update', \"delete\" FROM t",
    "WITH a AS (SELECT 1) SELECT share FROM a",
    "SAVEPOINT a",
    "ROLLBACK TO SAVEPOINT a",
    "RELEASE SAVEPOINT a",
    "SET LOCAL lock_timeout = 5",
    "",
]
WRITES = [
    "INSERT INTO t VALUES (1)",
    "/* SELECT */ update t SET a = 1",
    "WITH gone AS (DELETE FROM t RETURNING a) SELECT * FROM gone",
    "SELECT * FROM t FOR UPDATE",
    "SELECT * FROM t FOR NO KEY UPDATE SKIP LOCKED",
    "SELECT * FROM t FOR SHARE",
    "SELECT * FROM t FOR KEY SHARE",
    "CREATE TABLE t (a int)",
    "LOCK TABLE t",
    "CALL settle()",
]
ENDS = {
    "COMMIT": "COMMIT",
    " -- well\n commit and chain": "COMMIT",
    "ROLLBACK": "ROLLBACK",
    "END": "END",
    "ABORT": "ABORT",
    "BEGIN": "BEGIN",
    "START TRANSACTION": "START",
    "PREPARE TRANSACTION 'a'": "PREPARE TRANSACTION",
    "SELECT ';'; COMMIT": "COMMIT",
    "INSERT INTO t VALUES ($a$ ; $a$);ROLLBACK; SELECT 1": "ROLLBACK",
}
ENDS_NOT = [*READS, *WRITES, "PREPARE a AS SELECT 1", "SELECT '; COMMIT'", "SELECT 1; -- ; COMMIT"]


@pytest.mark.parametrize("sql", READS)
def test_reads(sql: str) -> None:
    assert not may_write(sql)


@pytest.mark.parametrize("sql", WRITES)
def test_writes(sql: str) -> None:
    assert may_write(sql)


@pytest.mark.parametrize("sql", ENDS)
def test_ends(sql: str) -> None:
    assert ends(sql) == ENDS[sql]


@pytest.mark.parametrize("sql", ENDS_NOT)
def test_does_not_end(sql: str) -> None:
    assert ends(sql) == ""
