"""SQL of handlers: which kind of statement it is, and what of it is refused. Pure functions of the text."""

import re
from collections.abc import Mapping, Sequence

from ringpost.contract.errors import UsageError
from ringpost.core.message import Statement

# What is skipped as a whole: strings, quoted names, dollar quotes, comments.
_QUOTED = r"'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\"|\$(\w*)\$.*?\$\1\$|--[^\n]*|/\*.*?\*/"
_WORDS = re.compile(_QUOTED + r"|(\w+)", re.DOTALL)
_NAMED = re.compile(_QUOTED + r"|(?<![:\w]):(\w+)", re.DOTALL)
_BARRED = frozenset(
    {"abort", "begin", "commit", "discard", "end", "listen", "load", "notify", "prepare", "release", "reset"}
    | {"rollback", "savepoint", "set", "start", "unlisten"}
)
_READS = frozenset({"select", "values", "table", "show", "with", "explain"})


def first_word(sql: str) -> str:
    """Give the word that a statement begins with, in lower case."""
    return next((word.lower() for match in _WORDS.finditer(sql) if (word := match[2])), "")


def may_read_only(sql: str) -> bool:
    """Say whether a statement may be one that only reads; the server knows for sure."""
    return first_word(sql) in _READS


def check(sql: str, schema: str) -> None:
    """Refuse what would end the transaction or change the session, and what names the store's own tables."""
    word = first_word(sql)
    if word in _BARRED:
        raise UsageError(f"{word.upper()} is not for handlers: the transaction ends with the handling")
    if re.search(rf'(?<!\w)"?{re.escape(schema)}"?\s*\.', sql, re.IGNORECASE):
        raise UsageError(f"the tables of schema {schema} are the store's own; keep yours in another schema")


def positional(statement: Statement) -> tuple[str, Sequence[object]]:
    """Give a statement with its parameters by position: `:name` becomes `$1` and so on."""
    sql, values = statement
    if not isinstance(values, Mapping):
        return sql, values
    names: dict[str, int] = {}

    def number(match: re.Match[str]) -> str:
        name = match[2]
        if name is None:
            return match[0]
        if name not in values:
            raise UsageError(f"the statement has :{name}, for which there is no value")
        return f"${names.setdefault(name, len(names) + 1)}"

    text = _NAMED.sub(number, sql)
    return text, [values[name] for name in names]
