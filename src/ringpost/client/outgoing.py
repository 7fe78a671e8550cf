"""What goes out over HTTP, as whoever sends it needs to know it: a call or a message, or a question about a ticket.

An outgoing request is written anew for each attempt, as what remains of its time and its number differ.
"""

from collections.abc import Sequence
from typing import Any, Protocol

import msgspec
from msgspec import Struct

from ringpost.client.request import head, whole, written
from ringpost.client.target import Target
from ringpost.contract.operation import Operation
from ringpost.contract.vocabulary import CallOptions
from ringpost.core.call import Call
from ringpost.core.message import Priority
from ringpost.wire.headers import PRIORITY_WORDS, after_text, is_key, path_text, quoted

More = Sequence[tuple[str, str]]

TICKETS = "tickets"
"""As what breakers know questions about tickets."""
NO_MORE: More = ()
NO_OPTIONS: CallOptions = {}
_NORMAL = Priority.NORMAL  # a member is looked up slowly


class Outgoing(Protocol):
    """A request on its way. `safe`: repeating it is harmless. `timed`: its answer comes as soon as it can."""

    @property
    def name(self) -> str: ...
    @property
    def contract(self) -> str: ...
    @property
    def deadline_s(self) -> float: ...
    @property
    def attempt(self) -> int: ...
    @property
    def safe(self) -> bool: ...
    @property
    def timed(self) -> bool: ...
    @property
    def streams(self) -> bool: ...

    def written(self, target: Target, now_s: float) -> bytes:
        """Give it as it goes out to a target."""
        ...

    def brief(self) -> "Outgoing":
        """Give the same as it is asked where no waiting is asked for: for a breaker's probe."""
        ...


class Posted(Struct, gc=False):
    """A call, or with `Prefer` a message."""

    operation: Operation[Any, Any]
    call: Call
    name: str
    contract: str
    deadline_s: float
    attempt: int
    options: CallOptions
    timed: bool = True
    streams: bool = False
    more: More = NO_MORE

    @property
    def safe(self) -> bool:
        return self.operation.effect is not None or self.call.idempotency_key is not None

    def again(self, attempt: int) -> "Posted":
        """Give the same as another attempt."""
        return msgspec.structs.replace(self, attempt=attempt, call=msgspec.structs.replace(self.call, attempt=attempt))

    def written(self, target: Target, now_s: float) -> bytes:
        """Give the request. What is the same for every call of an operation is written once."""
        call = self.call
        begin = target.heads.get(self.name)
        if begin is None:
            begin = target.heads[self.name] = self._begin(target)
        if (
            self.more
            or call.headers
            or call.depth
            or call.trace
            or call.idempotency_key is not None
            or call.priority is not _NORMAL
            or call.attempt != 1
            or call.after is not None
        ):
            begin += written("", 0, [*self.more, *_headers_of(call)])
        remaining_ms = int((self.deadline_s - now_s) * 1000)
        body = call.body
        return b"%brequest-timeout: %dms\r\ncontent-length: %d\r\n\r\n%b" % (
            begin,
            remaining_ms if remaining_ms > 0 else 1,
            len(body),
            body,
        )

    def brief(self) -> "Posted":
        """Give the same without waiting. What comes after something else waits for that all the same."""
        return msgspec.structs.replace(self, more=_hurried(self.more), timed=self.call.after is None)

    def _begin(self, target: Target) -> bytes:
        path = f"{target.prefix}/{self.contract}/{self.operation.name}"
        headers = [("content-type", "application/json")]
        if target.instance:
            headers.append(("ringpost-instance", target.instance))
        return head("POST", path, target.origin, headers)


def posted(
    operation: Operation[Any, Any], call: Call, options: CallOptions = NO_OPTIONS, more: More = NO_MORE
) -> Posted:
    """Put a call on its way; with more headers, or after something, it isn't answered as soon as it can be."""
    return Posted(
        operation,
        call,
        call.operation,
        operation.contract_name,
        call.deadline_s,
        call.attempt,
        options,
        not more and call.after is None,
        False,
        more,
    )


class Asked(Struct):
    """Something else at a door: a ticket, an event. `name`: as breakers know it."""

    name: str
    contract: str
    method: str
    path: str
    headers: More
    deadline_s: float
    body: bytes = b""
    attempt: int = 1
    safe: bool = True
    streams: bool = False
    timed: bool = False

    def written(self, target: Target, now_s: float) -> bytes:
        """Give the request."""
        return whole(self.method, target.prefix + self.path, target.origin, self.headers, self.body)

    def brief(self) -> "Asked":
        """Give the same without waiting. A stream goes on for as long as there is something to tell."""
        return msgspec.structs.replace(self, headers=_hurried(self.headers), timed=not self.streams)


def _hurried(headers: More) -> More:
    """Leave out for how long an answer is waited for (`Prefer: wait`, RFC 7240 section 4.3)."""
    kept: list[tuple[str, str]] = []
    for name, value in headers:
        if name != "prefer":
            kept.append((name, value))
            continue
        rest = [word for word in value.split(", ") if not word.startswith("wait=")]
        if rest:
            kept.append((name, ", ".join(rest)))
    return kept


def _headers_of(call: Call) -> list[tuple[str, str]]:
    """Give the headers that say what is special about a call."""
    headers = list(call.headers.items())
    if call.idempotency_key is not None and is_key(call.idempotency_key):  # else the receiver makes it of the request
        headers.append(("idempotency-key", quoted(call.idempotency_key)))
    if call.priority is not _NORMAL:
        headers.append(("ringpost-priority", PRIORITY_WORDS[call.priority]))
    if call.depth:
        headers.append(("ringpost-depth", str(call.depth)))
        headers.append(("ringpost-path", path_text(call.path)))
    if call.attempt != 1:
        headers.append(("ringpost-attempt", str(call.attempt)))
    if call.after is not None:
        headers.append(("ringpost-after", after_text(call.after)))
    if call.trace:
        headers.append(("traceparent", call.trace))
        if call.tracestate:
            headers.append(("tracestate", call.tracestate))
    return headers
