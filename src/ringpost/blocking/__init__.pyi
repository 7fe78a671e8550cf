"""Written by tools/blocking_stub.py from the asynchronous classes. Don't edit it."""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, Generic, Literal, Self, final

from typing_extensions import Unpack

from ringpost.client.deadline import deadline as deadline
from ringpost.client.statistics import TargetStatistics
from ringpost.client.ticket import Receipt as Receipt
from ringpost.contract.operation import Event, Operation
from ringpost.contract.outcome import Outcome
from ringpost.contract.vocabulary import CallOptions, Commits, Fits, Options, Reply, Request, Seconds, SendOptions, T
from ringpost.core.call import Identity
from ringpost.core.outcome import Stopped
from ringpost.core.receipt import Status

__all__ = ["Caller", "Client", "Context", "Outbox", "Receipt", "Sender", "Ticket", "Transaction", "deadline"]

@final
class Ticket(Receipt, Generic[Reply]):
    def result(self, timeout: Seconds = 60) -> Reply: ...
    def status(self) -> Status: ...
    def updates(self) -> Iterator[Status]: ...
    def cancel(self) -> Literal["cancelled", "requested", "too_late"]: ...

class Sender:
    def send(
        self,
        operation: Operation[Request, Reply],
        request: Fits[Request],
        /,
        *,
        reply_to: Operation[Outcome[Request, Reply]] | str | None = None,
        **options: Unpack[SendOptions],
    ) -> Receipt: ...
    def send_all(
        self, operation: Operation[Request, Reply], requests: Iterable[Fits[Request]], /, **options: Unpack[SendOptions]
    ) -> Sequence[Receipt]: ...
    def publish(self, event: Event[T], data: Fits[T], /, **options: Unpack[SendOptions]) -> Receipt: ...

class Caller(Sender):
    def call(
        self, operation: Operation[Request, Reply], request: Fits[Request], /, **options: Unpack[CallOptions]
    ) -> Reply: ...
    def call_or_send(
        self,
        operation: Operation[Request, Reply],
        request: Fits[Request],
        /,
        *,
        wait: Seconds | None = None,
        **options: Unpack[Options],
    ) -> Reply | Receipt: ...
    def call_all(
        self,
        operation: Operation[Request, Reply],
        requests: Iterable[Fits[Request]],
        /,
        *,
        concurrency: int = 20,
        **options: Unpack[CallOptions],
    ) -> list[Reply]: ...
    def call_each(
        self,
        operation: Operation[Request, Reply],
        requests: Iterable[Fits[Request]],
        /,
        *,
        concurrency: int = 20,
        **options: Unpack[CallOptions],
    ) -> Iterator[Outcome[Request, Reply]]: ...

class Outbox(Sender):
    def create_table(self) -> None: ...
    def send(
        self,
        operation: Operation[Request, Reply],
        request: Fits[Request],
        /,
        *,
        reply_to: Operation[Outcome[Request, Reply]] | str | None = None,
        **options: Unpack[SendOptions],
    ) -> Receipt: ...
    def send_all(
        self, operation: Operation[Request, Reply], requests: Iterable[Fits[Request]], /, **options: Unpack[SendOptions]
    ) -> Sequence[Receipt]: ...
    def publish(self, event: Event[T], data: Fits[T], /, **options: Unpack[SendOptions]) -> Receipt: ...

class Client(Caller):
    def __init__(
        self,
        *,
        store: str | None = None,
        addresses: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | Callable[[], Mapping[str, str]] | None = None,
    ) -> None: ...
    def __enter__(self) -> Self: ...
    def __exit__(self, *exc: object) -> None: ...
    def close(self) -> None: ...
    def statistics(self) -> tuple[TargetStatistics, ...]: ...
    def call(
        self, operation: Operation[Request, Reply], request: Fits[Request], /, **options: Unpack[CallOptions]
    ) -> Reply: ...
    def call_or_send(
        self,
        operation: Operation[Request, Reply],
        request: Fits[Request],
        /,
        *,
        wait: Seconds | None = None,
        **options: Unpack[Options],
    ) -> Reply | Ticket[Reply]: ...
    def send(
        self,
        operation: Operation[Request, Reply],
        request: Fits[Request],
        /,
        *,
        reply_to: Operation[Outcome[Request, Reply]] | str | None = None,
        **options: Unpack[SendOptions],
    ) -> Ticket[Reply]: ...
    def send_all(
        self, operation: Operation[Request, Reply], requests: Iterable[Fits[Request]], /, **options: Unpack[SendOptions]
    ) -> list[Ticket[Reply]]: ...
    def publish(self, event: Event[T], data: Fits[T], /, **options: Unpack[SendOptions]) -> Receipt: ...
    def ticket(self, operation: Operation[Request, Reply], id: str, /) -> Ticket[Reply]: ...
    def outbox(self, session: Commits, /) -> Outbox: ...

@final
class Context(Caller):
    attempt: int

    @property
    def message_id(self) -> str: ...
    @property
    def identity(self) -> Identity | None: ...
    @property
    def headers(self) -> Mapping[str, str]: ...
    @property
    def fence(self) -> int | None: ...
    @property
    def dry_run(self) -> bool: ...
    @property
    def log(self) -> logging.LoggerAdapter[logging.Logger]: ...
    @property
    def deadline(self) -> datetime: ...
    @property
    def remaining(self) -> float: ...
    @property
    def cancelled(self) -> Stopped | None: ...
    def progress(self, fraction: float | None, note: str = "", /) -> None: ...
    def checkpoint(self) -> None: ...
    def call(
        self, operation: Operation[Request, Reply], request: Fits[Request], /, **options: Unpack[CallOptions]
    ) -> Reply: ...
    def call_or_send(
        self,
        operation: Operation[Request, Reply],
        request: Fits[Request],
        /,
        *,
        wait: Seconds | None = None,
        **options: Unpack[Options],
    ) -> Reply | Receipt: ...
    def send(
        self,
        operation: Operation[Request, Reply],
        request: Fits[Request],
        /,
        *,
        reply_to: Operation[Outcome[Request, Reply]] | str | None = None,
        **options: Unpack[SendOptions],
    ) -> Receipt: ...
    def send_all(
        self, operation: Operation[Request, Reply], requests: Iterable[Fits[Request]], /, **options: Unpack[SendOptions]
    ) -> Sequence[Receipt]: ...
    def publish(self, event: Event[T], data: Fits[T], /, **options: Unpack[SendOptions]) -> Receipt: ...
    @property
    def now(self) -> Sender: ...

@final
class Transaction:
    @property
    def connection(self) -> Any: ...
    def execute(self, sql: str, params: Sequence[object] | Mapping[str, object] = (), /) -> list[tuple[Any, ...]]: ...
    def defer(self, sql: str, params: Sequence[object] | Mapping[str, object] = (), /) -> None: ...
    def lock(self) -> None: ...
