"""What a service declared for one queue, as pipeline, worker and host read it."""

from collections.abc import Callable, Mapping
from typing import Any, Literal

from msgspec import Struct

from ringpost.contract.codec import Codec
from ringpost.contract.operation import Event, Operation
from ringpost.contract.problem import Problem
from ringpost.core.limit import Kind
from ringpost.core.retry import Retry

Work = Literal["operation", "event", "schedule", "failure", "forward"]


class Plan(Struct, frozen=True):
    """When a schedule ticks: by a cron line in a time zone, or every so many seconds, aligned to the epoch."""

    cron: str = ""
    tz: str = "UTC"
    every_s: float = 0.0
    overlap: bool = False


class Handler(Struct, frozen=True, kw_only=True, eq=False):
    """One handler as declared: which queue, which function, how. Nothing of it belongs to a process.

    `name` is the full name of the operation or event, or the queue of a schedule or `on_failure`. `retry` always has a
    rule for `Exception`.
    """

    work: Work
    service: str
    name: str
    queue: str
    function: Callable[..., Any]
    is_async: bool
    hints: Mapping[str, Any] | None = None  # its annotations; None: not known when it was declared
    request: Codec[Any]
    reply: Codec[Any]
    raises: tuple[type[Problem], ...] = ()
    operation: Operation[Any, Any] | None = None
    event: Event[Any] | None = None
    plan: Plan | None = None
    concurrency: int = 128
    limiter: Kind | None = None  # None: as the service says, else the settings
    call_queue: int | None = None
    retry: Mapping[type[Exception], Retry]
    max_run_s: float = 900.0
    finish: bool = False  # a caller that goes away doesn't cancel it
    halt: bool = False  # a dead head of a line keeps the line waiting
    dry_run: bool = False
    from_beginning: bool = False  # of an event: its subscription begins at the beginning of the log
