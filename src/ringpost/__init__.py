"""Ringpost: an operation is written once and reached in both ways, called or sent."""

from importlib import import_module
from typing import TYPE_CHECKING

from ringpost.contract.contract import Contract
from ringpost.contract.errors import (
    Cancelled,
    DeadlineExceeded,
    InvalidRequest,
    LeaseLost,
    NotHere,
    NotYet,
    OperationFailed,
    Overloaded,
    Reject,
    RetryLater,
    RingpostError,
    StateError,
    StoreError,
    TicketExpired,
    TransactionHeldTooLong,
    TransportError,
    Unavailable,
    UsageError,
)
from ringpost.contract.operation import Event, Operation
from ringpost.contract.outcome import DeadLetter, Outcome
from ringpost.contract.problem import Problem
from ringpost.contract.vocabulary import (
    Asyncpg,
    CallOptions,
    Committable,
    Fits,
    Handles,
    OperationOptions,
    Options,
    Priority,
    Provider,
    Seconds,
    Secret,
    SendOptions,
    When,
)

if TYPE_CHECKING:
    from ringpost.client.client import Client
    from ringpost.client.deadline import deadline
    from ringpost.client.first import first
    from ringpost.client.outbox import Outbox
    from ringpost.client.ticket import Receipt, Ticket
    from ringpost.client.verbs import Caller, Sender
    from ringpost.core.call import Identity
    from ringpost.core.receipt import Status
    from ringpost.core.retry import Retry
    from ringpost.http.asgi import asgi
    from ringpost.http.run import run, serve
    from ringpost.service.context import Context
    from ringpost.service.schedule import Tick
    from ringpost.service.service import HandlerOptions, Service
    from ringpost.service.transaction import Transaction

__version__ = "0.1.0"

__all__ = [
    "Asyncpg",
    "CallOptions",
    "Caller",
    "Cancelled",
    "Client",
    "Committable",
    "Context",
    "Contract",
    "DeadLetter",
    "DeadlineExceeded",
    "Event",
    "Fits",
    "HandlerOptions",
    "Handles",
    "Identity",
    "InvalidRequest",
    "LeaseLost",
    "NotHere",
    "NotYet",
    "Operation",
    "OperationFailed",
    "OperationOptions",
    "Options",
    "Outbox",
    "Outcome",
    "Overloaded",
    "Priority",
    "Problem",
    "Provider",
    "Receipt",
    "Reject",
    "Retry",
    "RetryLater",
    "RingpostError",
    "Seconds",
    "Secret",
    "SendOptions",
    "Sender",
    "Service",
    "StateError",
    "Status",
    "StoreError",
    "Tick",
    "Ticket",
    "TicketExpired",
    "Transaction",
    "TransactionHeldTooLong",
    "TransportError",
    "Unavailable",
    "UsageError",
    "When",
    "asgi",
    "deadline",
    "first",
    "run",
    "serve",
]

# Loaded at first use, so that a module of contracts costs no more than its types: importing ringpost loads no driver,
# no server and no event loop. The imports above, under TYPE_CHECKING, say the same to type checkers.
_LOADED_AT_FIRST_USE = {
    "Caller": "ringpost.client.verbs",
    "Client": "ringpost.client.client",
    "Context": "ringpost.service.context",
    "HandlerOptions": "ringpost.service.service",
    "Identity": "ringpost.core.call",
    "Outbox": "ringpost.client.outbox",
    "Receipt": "ringpost.client.ticket",
    "Retry": "ringpost.core.retry",
    "Sender": "ringpost.client.verbs",
    "Service": "ringpost.service.service",
    "Status": "ringpost.core.receipt",
    "Tick": "ringpost.service.schedule",
    "Ticket": "ringpost.client.ticket",
    "Transaction": "ringpost.service.transaction",
    "asgi": "ringpost.http.asgi",
    "deadline": "ringpost.client.deadline",
    "first": "ringpost.client.first",
    "run": "ringpost.http.run",
    "serve": "ringpost.http.run",
}

if not TYPE_CHECKING:  # Type checkers would take it for "any name is here".

    def __getattr__(name: str) -> object:
        module = _LOADED_AT_FIRST_USE.get(name)
        if module is None:
            raise AttributeError(f"module 'ringpost' has no attribute {name!r}")
        found = getattr(import_module(module), name)
        globals()[name] = found  # The next access finds it without asking here.
        return found

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
