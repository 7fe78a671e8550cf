"""SQL of handlers: which kind of statement it is, and what of it is refused. Pure functions of the text."""

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import pairwise

from ringpost.contract.errors import UsageError
from ringpost.core.message import Statement

# How a transaction on PostgreSQL begins that makes tables: there CREATE TABLE IF NOT EXISTS fails where another makes
# that table at the same moment. The lock of the store's own tables is another one.
ALONE = f"SELECT pg_advisory_xact_lock({0x72696E67706F7375})"

# What is skipped as a whole: strings, quoted names, dollar quotes, comments.
_QUOTED = r"'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\"|\$(\w*)\$.*?\$\1\$|--[^\n]*|/\*.*?\*/"
_WORDS = re.compile(_QUOTED + r"|(\w+)", re.DOTALL)
_PARTS = re.compile(_QUOTED + r"|(;)", re.DOTALL)
_NAMED = re.compile(_QUOTED + r"|(?<![:\w]):(\w+)", re.DOTALL)
_CALL = re.compile(r'(?!(?:VALUES|IN|AS|AND|OR|ANY|EXISTS)\b)\b\w+"?\s*\(', re.IGNORECASE)
_LEAVES = frozenset({"temp", "temporary", "declare", "do", "call", "execute"})
_ESCAPED_NAME = re.compile(r'(?<!\w)U&"', re.IGNORECASE)
_BARRED = frozenset(
    {"abort", "begin", "commit", "discard", "end", "listen", "load", "notify", "prepare", "release", "reset"}
    | {"rollback", "savepoint", "set", "start", "unlisten"}
)
_READS = frozenset({"select", "values", "table", "show", "with", "explain"})
_CHANGES = frozenset({"insert", "update", "delete", "merge"})  # also within one that begins as if it only read
_SHARES = (("for", "share"), ("key", "share"))
_ENDS = frozenset({"abort", "begin", "commit", "end", "rollback", "start"})
_MARKS = frozenset({"savepoint", "release", "rollback", "set"})  # these only mark where it stands, or how it goes on


def first_word(sql: str) -> str:
    """Give the word that a statement begins with, in lower case."""
    return next((word.lower() for match in _WORDS.finditer(sql) if (word := match[2])), "")


@lru_cache(512)
def may_read_only(sql: str) -> bool:
    """Say whether a statement may be one that only reads; the database knows for sure."""
    return first_word(sql) in _READS


@lru_cache(512)
def may_write(sql: str) -> bool:
    """Say whether a statement may write or lock rows, as far as its text tells."""
    words = _words(sql)
    if not words or words[0] in _MARKS:
        return False
    if words[0] not in _READS or not _CHANGES.isdisjoint(words):
        return True
    return any(pair in _SHARES for pair in pairwise(words))


@lru_cache(512)
def may_leave(sql: str) -> bool:
    """Say whether a statement may change its session beyond its transaction: whatever calls a function, as that may set
    something or take a lock, and what makes a temporary table or a cursor. Triggers aren't seen."""
    return _CALL.search(sql) is not None or not _LEAVES.isdisjoint(_words(sql))


@lru_cache(512)
def ends(sql: str) -> str:
    """Give the word by which a statement, or one of several, begins or ends the transaction; savepoints don't."""
    for part in _parts(sql):
        words = _words(part)
        if words and words[0] in _ENDS and "to" not in words:  # ROLLBACK TO is a savepoint's
            return words[0].upper()
        if words[:2] == ["prepare", "transaction"]:
            return "PREPARE TRANSACTION"
    return ""


@lru_cache(512)
def check(sql: str, schema: str, *, shared: bool = False) -> None:
    """Refuse what would end the transaction or change the session, and what names the store's own tables. `shared`: the
    transaction is that of many handlings."""
    word = first_word(sql)
    if word in _BARRED:
        raise UsageError(f"{word.upper()} is not for handlers: the transaction ends with the handling")
    if shared and "set_config" in _words(sql):
        raise UsageError("set_config is not for tx.defer: its transaction is that of others too. Use tx.execute")
    if _ESCAPED_NAME.search(sql):
        raise UsageError('names are written as they are here, not as U&"…"')
    if re.search(rf'(?<!\w)"?{re.escape(schema)}"?\s*\.', sql, re.IGNORECASE):
        raise UsageError(f"the tables of schema {schema} are the store's own; keep yours in another schema")


def _words(sql: str) -> list[str]:
    return [match[2].lower() for match in _WORDS.finditer(sql) if match[2]]


def _parts(sql: str) -> list[str]:
    """Give the statements of a text; a semicolon in a string or a comment ends none."""
    ends = [match.start() for match in _PARTS.finditer(sql) if match[2]]
    return [sql[a:b] for a, b in zip([0, *(end + 1 for end in ends)], [*ends, len(sql)], strict=True)]


def positional(statement: Statement) -> tuple[str, Sequence[object]]:
    """Give a statement with its parameters by position: `:name` becomes `$1` and so on."""
    sql, values = statement
    if not isinstance(values, Mapping):
        return sql, values
    text, names = _numbered(sql)
    for name in names:
        if name not in values:
            raise UsageError(f"the statement has :{name}, for which there is no value")
    return text, [values[name] for name in names]


@lru_cache(512)
def _numbered(sql: str) -> tuple[str, Sequence[str]]:
    names: dict[str, int] = {}

    def number(match: re.Match[str]) -> str:
        name = match[2]
        return match[0] if name is None else f"${names.setdefault(name, len(names) + 1)}"

    return _NAMED.sub(number, sql), tuple(names)
