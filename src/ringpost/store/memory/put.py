"""Putting: messages into rows, known ones absorbed, events spread over their subscriptions."""

from collections.abc import Mapping, Sequence

from msgspec import structs

from ringpost.core import ids
from ringpost.core.life import Happening
from ringpost.core.message import Kind, Message, State
from ringpost.core.notes import Subscription
from ringpost.store.memory import line, notes
from ringpost.store.memory.row import Row
from ringpost.store.memory.turn import Turn
from ringpost.store.port import Put, Refused


def put_all(turn: Turn, messages: Sequence[Message]) -> list[Put]:
    """Put messages that come from outside, one answer each."""
    return [put(turn, message, limited=True) for message in messages]


def put(turn: Turn, message: Message, *, limited: bool) -> Put:
    """Put a message or event. `limited`: not beyond what its queue may hold."""
    if message.event:
        answer = _fan_out(turn, message, limited)
    else:
        answer = _known(turn, message) or _put_new(turn, message, limited)
    if turn.watcher is not None and not answer.refused and not answer.duplicate:
        turn.watcher.stored(message)
    return answer


# --- messages


def _known(turn: Turn, message: Message) -> Put | None:
    """Answer for a message whose id or dedup key is there already."""
    row = turn.rows.with_id(message.id)
    if row is not None:
        if not row.same_content(message):
            return Put(row.id, duplicate=True, state=row.state, refused="mismatch")
        return Put(row.id, duplicate=True, state=row.state)
    row = turn.rows.with_dedup(message.dedup)
    if row is None:
        return None
    if row.digest != message.digest:
        return Put(row.id, duplicate=True, state=row.state, refused="key_reused")
    if row.kind is Kind.CALL and row.state is State.RUNNING and row.lease_ms < turn.now_ms and message.reserve:
        row.losses += 1
        _reserve(turn, row, message, Happening.OVERTAKE)
        return Put(row.id, duplicate=True, state=row.state, delivery=row.delivery())
    return Put(row.id, duplicate=True, state=row.state)


def _put_new(turn: Turn, message: Message, limited: bool) -> Put:
    if limited and _full(turn, message):
        return Put(message.id, refused="full")
    row = _new_row(turn, message)
    turn.rows.add(row)
    if message.reserve is not None:
        _reserve(turn, row, message, Happening.RESERVE)
        return Put(row.id, delivery=row.delivery())
    line.settle_in(turn, row, Happening.PUT)
    return Put(row.id)


def _full(turn: Turn, message: Message) -> bool:
    if message.kind is Kind.CALL:
        return False
    counts, settings = turn.rows.counts[message.queue], turn.settings
    size = len(message.headers) + len(message.body)
    return counts.live >= settings.depth_max or counts.live_bytes + size > settings.depth_bytes_max


def _new_row(turn: Turn, message: Message) -> Row:
    now_ms = turn.now_ms
    due_ms = message.due_ms if message.due_ms is not None else now_ms + round(message.delay_s * 1000)
    return Row(
        ref=turn.rows.next_ref(),
        id=message.id,
        queue=message.queue,
        headers=message.headers,
        body=message.body,
        kind=message.kind,
        priority=message.priority,
        created_ms=now_ms,
        due_ms=max(due_ms, now_ms),
        expires_ms=None if message.ttl_s is None else now_ms + round(message.ttl_s * 1000),
        line=message.line,
        dedup=message.dedup,
        digest=message.digest,
        keep_s=message.keep_s,
        state=State.SCHEDULED,
        fence=turn.place.fence,
        caller=message.caller,
    )


def _reserve(turn: Turn, row: Row, message: Message, happening: Happening) -> None:
    assert message.reserve is not None
    before = None if happening is Happening.RESERVE else row.state
    turn.rows.join_line(row)
    row.hold(message.reserve.holder, turn.place.next_fence(), message.reserve.lease_s, turn.now_ms)
    turn.step(row, before, happening, State.RUNNING)


# --- events


def _fan_out(turn: Turn, event: Message, limited: bool) -> Put:
    """Make one delivery a subscription, all or none; ids derive from the event's, so a repetition is absorbed."""
    subscriptions = notes.subscriptions(turn, event.event)
    told = _told(turn, event, subscriptions) if event.log_s else None
    if told is not None:
        return told
    live = [queue for queue, one in subscriptions.items() if one.live]
    deliveries = [_for_subscription(event, queue) for queue in live]
    known = [_known(turn, delivery) for delivery in deliveries]
    refusals: list[Refused] = [one.refused for one in known if one is not None and one.refused]
    refused: Refused = refusals[0] if refusals else ""
    fresh = [delivery for delivery, one in zip(deliveries, known, strict=True) if one is None]
    if not refused and limited and any(_full(turn, delivery) for delivery in fresh):
        refused = "full"
    if refused:
        return Put(event.id, receivers=len(deliveries), refused=refused)
    for delivery in fresh:
        put(turn, delivery, limited=False)
    duplicate = bool(deliveries) and not fresh
    if not duplicate:
        at = turn.place.log.append(event, frozenset(live), turn.now_ms) if event.log_s else 0
        notes.count_gaps(turn, event.event, subscriptions, at)
    return Put(event.id, duplicate=duplicate, receivers=_receivers(subscriptions))


def _told(turn: Turn, event: Message, subscriptions: Mapping[str, Subscription]) -> Put | None:
    """Answer for an event that its log has already."""
    entry = turn.place.log.known(event.id)
    if entry is None:
        return None
    same = (entry.headers, entry.body) == (event.headers, event.body)
    return Put(event.id, duplicate=same, receivers=_receivers(subscriptions), refused="" if same else "mismatch")


def _for_subscription(event: Message, queue: str) -> Message:
    """Make of an event the message for one subscription: identity, line and key are the subscription's own."""
    name = queue.encode()
    return structs.replace(
        event,
        id=ids.delivery(event.id, queue),
        queue=queue,
        event="",
        line=None if event.line is None else ids.derived(event.line, name),
        dedup=None if event.dedup is None else ids.derived(event.dedup, name),
    )


def _receivers(subscriptions: Mapping[str, Subscription]) -> int:
    """Count who gets an event, with the publish or, where it is behind, out of the log."""
    return sum(not one.suspended for one in subscriptions.values())
