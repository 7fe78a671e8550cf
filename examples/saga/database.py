"""What the services of the saga ask of a database: SQL, and that their tables are there."""

from collections.abc import Sequence
from typing import Any, Protocol

from ringpost import Transaction


class Sql(Protocol):
    """A handler's own SQL. In a running service it is the handler's Transaction; a test may give another."""

    async def execute(self, sql: str, params: Sequence[object] = (), /) -> list[tuple[Any, ...]]: ...


class Tables:
    """The tables of a service are there."""


def sql(tx: Transaction) -> Sql:
    """Let SQL commit with the handler's outcome and with what it sends."""
    return tx
