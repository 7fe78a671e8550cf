"""Names are wire: what contracts, operations, events and problems may be called, and how a class name becomes one."""

import re

from ringpost.contract.errors import UsageError

# Paths of the door, so a contract of that name could never be reached.
RESERVED_CONTRACTS = frozenset(
    {"events", "tickets", "healthz", "readyz", "metrics", "openapi.json", "asyncapi.json", "nexus", "v1", "console"}
)
_NAME = re.compile(r"[a-z][a-z0-9_]{0,40}")
_WORD_START = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")


def snake_case(name: str) -> str:
    """Give a class name as the wire has it: `EmailTaken` is `email_taken`, `HTTPFetch` is `http_fetch`."""
    return _WORD_START.sub("_", name).lower()


def checked_name(name: object, what: str) -> str:
    """Give the name back, or raise UsageError; `what` says whose name it is."""
    if not isinstance(name, str):
        raise UsageError(f"{what} needs a str as its name, not {type(name).__name__}.")
    if _NAME.fullmatch(name) is None:
        raise UsageError(
            f"{what} can't be named {name!r}: names are lower-case letters, digits and _, begin with a letter and have"
            f" at most 41 characters. Say name={suggestion(name)!r}, for example."
        )
    return name


def suggestion(name: str) -> str:
    """Give a name that is allowed and as near to the given one as can be."""
    plain = re.sub(r"[^a-z0-9]+", "_", snake_case(name)).strip("_").lstrip("0123456789_")
    return plain[:41] or "orders"
