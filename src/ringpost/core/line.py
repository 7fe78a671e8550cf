"""Lines: messages with one ordering key are handled one after the other, in the order in which they were put."""

from ringpost.core.ids import hash128


def line_id(scope: str, key: str) -> bytes:
    """Name the line of an ordering key. A key means something within its scope (a contract, an event, a schedule)."""
    return hash128("line", scope, key)
