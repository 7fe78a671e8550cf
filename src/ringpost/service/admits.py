"""How the calls of one operation are let in, as it was decided at the start: by handler, service or settings."""

from typing import Literal

from msgspec import Struct

from ringpost.core.limit import Kind, limiter
from ringpost.service.handler import Handler
from ringpost.service.service import Service
from ringpost.service.slots import Slots
from ringpost.settings import Settings

Source = Literal["handler", "service", "settings"]


class Admits(Struct, frozen=True):
    """What holds for an operation in this process, and who said so."""

    limiter: Kind
    limiter_from: Source
    least: int
    most: int  # calls at a time
    call_queue: int
    call_queue_from: Source


def admits(handler: Handler, service: Service, settings: Settings) -> Admits:
    """Decide how the calls of a handler are let in: as it says itself, else its service, else the settings."""
    kind: Kind = settings.limiter
    kind_from: Source = "settings"
    queue, queue_from = settings.call_queue, kind_from
    said: list[tuple[Source, Kind | None, int | None]] = [
        ("service", service.limiter, service.call_queue),
        ("handler", handler.limiter, handler.call_queue),
    ]
    for source, said_kind, said_queue in said:
        if said_kind is not None:
            kind, kind_from = said_kind, source
        if said_queue is not None:
            queue, queue_from = said_queue, source
    most = handler.concurrency
    return Admits(kind, kind_from, min(settings.limit_least, most), most, queue, queue_from)


def slots_of(handler: Handler, decided: Admits) -> Slots:
    """Make the slots of a handler."""
    return Slots(
        total=handler.concurrency,
        name=handler.name,
        limiter=limiter(decided.limiter, decided.least, decided.most),
        queue_max=decided.call_queue,
    )
