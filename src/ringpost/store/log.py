"""What the log of an event keeps, and what a subscription is given of it. Pure."""

from msgspec import Struct

from ringpost.core import ids
from ringpost.core.message import Message, Priority


class Entry(Struct, gc=False):
    """An event in its log. `pos` rises in the order in which events of one ordering key were committed."""

    pos: int
    id: bytes
    keep_s: int  # of the deliveries made of it
    due_ms: int | None
    expires_ms: int | None
    line: bytes | None
    caller: str | None
    headers: bytes
    body: bytes


class Logged(Struct, gc=False):
    """An entry on its way into the log of another store. `until_ms`: how long it is kept. `receivers`: the queues that
    got it with its publish. `sound`: what is stored still has the checksum that it was kept with."""

    entry: Entry
    until_ms: int
    receivers: tuple[str, ...]
    sound: bool


def due_ms(event: Message, now_ms: int) -> int | None:
    """Give when an event that is published now falls due; None: at once."""
    if event.due_ms is not None:
        return event.due_ms
    return now_ms + round(event.delay_s * 1000) if event.delay_s else None


def expires_ms(event: Message, now_ms: int) -> int | None:
    """Give when an event that is published now expires; None: never."""
    return None if event.ttl_s is None else now_ms + round(event.ttl_s * 1000)


def delivery_of(entry: Entry, queue: str, now_ms: int) -> Message | None:
    """Make of an entry what its publish would have made for the subscription, to be taken after what is newer.

    None: it has expired.
    """
    if entry.expires_ms is not None and entry.expires_ms <= now_ms:
        return None
    return Message(
        id=ids.delivery(entry.id, queue),
        queue=queue,
        body=entry.body,
        headers=entry.headers,
        priority=Priority.LOW,
        due_ms=entry.due_ms,
        ttl_s=None if entry.expires_ms is None else (entry.expires_ms - now_ms) / 1000,
        line=None if entry.line is None else ids.derived(entry.line, queue.encode()),
        keep_s=entry.keep_s,
        caller=entry.caller,
    )
