"""The public names: which there are, that each is there, and what importing them costs."""

import ast
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import ringpost

PUBLIC = [
    "RingpostError",
    "UsageError",
    "InvalidRequest",
    "StoreError",
    "TransportError",
    "Unavailable",
    "Overloaded",
    "DeadlineExceeded",
    "OperationFailed",
    "StateError",
    "LeaseLost",
    "NotHere",
    "NotYet",
    "TicketExpired",
    "Transaction",
    "TransactionHeldTooLong",
    "Problem",
    "RetryLater",
    "Reject",
    "Cancelled",
    "Contract",
    "Operation",
    "OperationOptions",
    "Event",
    "Receipt",
    "Status",
    "Ticket",
    "Outcome",
    "DeadLetter",
    "Options",
    "CallOptions",
    "SendOptions",
    "HandlerOptions",
    "Sender",
    "Caller",
    "Client",
    "Outbox",
    "Committable",
    "Asyncpg",
    "Identity",
    "Context",
    "Tick",
    "Retry",
    "Handles",
    "Service",
    "run",
    "serve",
    "asgi",
    "deadline",
    "first",
    "Priority",
    "Secret",
    "Provider",
    "Fits",
    "Seconds",
    "When",
]

# A driver, a server or a console in `import ringpost` would be paid for by whoever only writes a contract.
FORBIDDEN = [
    "django",
    "psycopg",
    "sqlalchemy",
    "apsw",
    "asyncpg",
    "nats",
    "redis",
    "httptools",
    "uvloop",
    "uvicorn",
    "rich",
    "click",
    "jsonschema",
    "cronsim",
    "pydantic",
    "attr",
    "attrs",
    "asyncio",
    "ssl",
    "sqlite3",
    "socket",
    "http.client",
]


def test_the_public_names_are_these() -> None:
    assert sorted(ringpost.__all__) == sorted(PUBLIC)
    assert len(set(ringpost.__all__)) == len(ringpost.__all__)


@pytest.mark.parametrize("name", PUBLIC)
def test_each_public_name_is_there(name: str) -> None:
    assert getattr(ringpost, name) is getattr(ringpost, name)
    assert name in dir(ringpost)


def test_another_name_is_missing_in_the_usual_way() -> None:
    with pytest.raises(AttributeError, match="module 'ringpost' has no attribute 'nonsense'"):
        _ = ringpost.nonsense  # type: ignore[attr-defined]


def test_type_checkers_are_told_the_same_as_python() -> None:
    tree = ast.parse(Path(ringpost.__file__).read_text())
    block = next(node for node in tree.body if isinstance(node, ast.If) and isinstance(node.test, ast.Name))
    told = {alias.name: node.module for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert told == vars(ringpost)["_LOADED_AT_FIRST_USE"]


def test_importing_it_loads_no_driver_server_or_console() -> None:
    code = f"import sys, ringpost; print(*(name for name in {FORBIDDEN!r} if name in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_the_check_above_can_fail() -> None:
    assert import_module("asyncio") is sys.modules["asyncio"]
    code = f"import sys, ringpost, asyncio; print(*(name for name in {FORBIDDEN!r} if name in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "asyncio" in done.stdout.split()


def test_a_contract_costs_no_driver_either() -> None:
    code = (
        "import sys\nfrom dataclasses import dataclass\nfrom ringpost import Contract, Operation\n"
        "@dataclass\nclass A:\n    a: int\n"
        "class C(Contract):\n    do = Operation(A, A | None)\n"
        "C.do.request.encode(A(1))\n"
        f"print(*(name for name in {FORBIDDEN!r} if name in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
