"""What the text of a handler's statement tells: whether it may write, and whether it ends the transaction."""

import pytest

from ringpost.contract.errors import UsageError
from ringpost.store.users_sql import check, ends, may_leave, may_write

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


@pytest.mark.parametrize(
    "sql",
    [
        "COMMIT",
        "SET search_path = ringpost",
        "RESET ALL",
        "DELETE FROM ringpost.message",
        'DELETE FROM "ringpost" . message',
        'DELETE FROM U&"ringp\\006Fst"."message"',
        'delete from u&"ringpost"."message"',
    ],
)
def test_refused(sql: str) -> None:
    with pytest.raises(UsageError):
        check(sql, "ringpost")


@pytest.mark.parametrize("sql", ["DELETE FROM message", "SELECT set_config('a.b', 'c', true)", "SELECT 1 FROM menu"])
def test_not_refused(sql: str) -> None:
    check(sql, "ringpost")


def test_a_setting_is_refused_in_a_transaction_of_many() -> None:
    with pytest.raises(UsageError, match=r"set_config is not for tx\.defer"):
        check("SELECT set_config('a.b', 'c', true)", "ringpost", shared=True)
    check("INSERT INTO t VALUES ('set_config')", "ringpost", shared=True)


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT set_config('a.b', 'c', false)",
        "UPDATE t SET a = set_tenant ($1)",
        "SELECT pg_advisory_lock(1)",
        """SELECT "set_tenant"('a')""",
        "CREATE TEMP TABLE t (a int)",
        "DECLARE c CURSOR WITH HOLD FOR SELECT 1",
        "DO $$ BEGIN PERFORM 1; END $$",
        "CALL forget()",
    ],
)
def test_may_leave_something_in_the_session(sql: str) -> None:
    assert may_leave(sql)


@pytest.mark.parametrize(
    "sql",
    [
        "INSERT INTO t VALUES ($1, $2)",
        "UPDATE t SET a = $1 WHERE b IN ($2, $3) AND (c = 1 OR (d = 2))",
        "SELECT a FROM t WHERE EXISTS (SELECT 1 FROM u)",
        "DELETE FROM t",
    ],
)
def test_leaves_nothing_in_the_session(sql: str) -> None:
    assert not may_leave(sql)
