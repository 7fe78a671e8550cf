"""What of a new version of a contract breaks those who still have the old one, and what to do about it.

Who wrote and who reads decides. A request was written by an old caller, or waits in a queue, and is read by the new
code. A reply or a problem is written by the new code and read by an old caller. An event is both: old subscribers read
what is published now, and new ones what waits.
"""

from collections.abc import Iterator
from typing import Literal

from msgspec import Struct

from ringpost.contract.document import (
    ContractDocument,
    EventDocument,
    JsonSchema,
    OperationDocument,
    ProblemDocument,
)
from ringpost.contract.reading import Unread, unread

Severity = Literal["breaking", "caution"]


class Finding(Struct, frozen=True):
    """One change that somebody feels. `where`: a name, and a JSON Pointer into what travels."""

    severity: Severity
    where: str
    who: str  # the side that breaks
    what: str
    do: str


def compared(old: ContractDocument, new: ContractDocument) -> list[Finding]:
    """Give what the new version breaks; with no finding of severity `breaking` both versions work side by side."""
    if old.name != new.name:
        return [
            Finding(
                "breaking",
                old.name,
                "callers and waiting messages",
                f"the contract is named {new.name} now; its name is in every path and queue",
                f'say name="{old.name}" in its class line',
            )
        ]
    found: list[Finding] = []
    for name, before in old.operations.items():
        where = f"{old.name}.{name}"
        after = new.operations.get(name)
        found += [_removed(where, "operation")] if after is None else _operation(where, before, after)
    for name, event in old.events.items():
        where = f"{old.name}.{name}"
        later = new.events.get(name)
        found += [_removed(where, "event")] if later is None else _event(where, event, later)
    return found


def _removed(where: str, kind: Literal["operation", "event"]) -> Finding:
    what = f"the {kind} is gone, or has another name"
    if kind == "event":
        return Finding("breaking", where, "subscribers", what, "publish it until none subscribes, then remove it")
    do = "keep it until nobody calls it and its queue is empty (`ringpost check` counts), or give the new one name=…"
    return Finding("breaking", where, "callers and waiting messages", what, do)


def _operation(where: str, old: OperationDocument, new: OperationDocument) -> Iterator[Finding]:
    yield from _travels(f"{where} request", old.request, new.request, "old callers and waiting messages", _READ_BOTH)
    yield from _travels(f"{where} reply", new.reply, old.reply, "old callers", _WRITE_OLD)
    yield from _problems(where, old, new)
    yield from _promises(where, old, new)


def _event(where: str, old: EventDocument, new: EventDocument) -> Iterator[Finding]:
    yield from _travels(f"{where} data", new.data, old.data, "old subscribers", _WRITE_OLD)
    yield from _travels(f"{where} data", old.data, new.data, "new subscribers, by what waits for them", _READ_BOTH)
    yield from _order(where, old.ordered, new.ordered)
    if _shorter(old.keep_s, new.keep_s):
        yield Finding("caution", where, "who publishes again", "repeats are known for a shorter time", "see keep=")


_READ_BOTH = "give what is new a default, and read what was written before; or make a new operation or event beside it"
_WRITE_OLD = "go on writing what they read until none of them is left; or make a new operation or event beside it"


def _travels(where: str, written: JsonSchema | None, read: JsonSchema | None, who: str, do: str) -> list[Finding]:
    if written is None and read is None:
        return []
    if written is None or read is None:
        what = "nothing is written, and something is read" if written is None else "something is written, and none read"
        return [Finding("breaking", where, who, what, do)]
    return [_unread(where, one, who, do) for one in unread(written, read)]


def _unread(where: str, one: Unread, who: str, do: str) -> Finding:
    return Finding("breaking", f"{where}{f' at {one.at}' if one.at else ''}", who, one.why, do)


def _problems(where: str, old: OperationDocument, new: OperationDocument) -> Iterator[Finding]:
    for urn, after in new.problems.items():
        before = old.problems.get(urn)
        name = f"{where} problem {urn.rpartition('.')[2]}"
        if before is None:
            yield Finding(
                "caution", name, "old callers", "it is new: they see a failure, not its class", "update them first"
            )
        else:
            yield from _problem(name, before, after)


def _problem(name: str, old: ProblemDocument, new: ProblemDocument) -> Iterator[Finding]:
    if old.status != new.status:
        what = f"its status was {old.status} and is {new.status}"
        yield Finding("caution", name, "callers without Ringpost", what, "keep the status, or tell them")
    yield from _travels(name, new.members, old.members, "old callers", _WRITE_OLD)


def _promises(where: str, old: OperationDocument, new: OperationDocument) -> Iterator[Finding]:
    if old.effect and not new.effect:
        what = f'effect="{old.effect}" is taken back, while old callers go on repeating and hedging as it allowed'
        yield Finding("breaking", where, "old callers", what, "keep it safe to repeat, or make a new operation")
    elif old.effect == "read" and new.effect != "read":
        what = "it has an effect now, while old callers go on asking two instances at once"
        yield Finding("caution", where, "old callers", what, "be sure that it may run twice at the same time")
    if old.keyed and not new.keyed:
        what = "it has no idempotency key any more: a repeat takes effect twice"
        yield Finding("breaking", where, "whoever repeats a request", what, "keep idempotency_key=")
    yield from _order(where, old.ordered, new.ordered)
    if _shorter(old.timeout_s, new.timeout_s):
        what = f"its timeout is {new.timeout_s:g} s now: calls that took longer fail"
        yield Finding("caution", where, "new callers", what, "look at how long it takes")
    if _shorter(old.ttl_s, new.ttl_s):
        what = f"messages expire after {new.ttl_s:g} s now"
        yield Finding("caution", where, "senders", what, "look at how long messages wait")


def _order(where: str, was: bool, is_now: bool) -> Iterator[Finding]:
    if was and not is_now:
        what = "it has no ordering key any more: what had one key is handled at the same time"
        yield Finding("breaking", where, "handlers that rely on the order", what, "keep ordering_key=")
    elif is_now and not was:
        what = "what waits has no ordering key, and stands in no line with what comes"
        yield Finding("caution", where, "handlers that rely on the order", what, "let the queue drain first")


def _shorter(old_s: float | None, new_s: float | None) -> bool:
    return new_s is not None and (old_s is None or new_s < old_s)
