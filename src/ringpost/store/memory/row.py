"""A row of the memory store: one delivery with all that hangs on it, and what it looks like from outside."""

from msgspec import Struct

from ringpost.core import lease
from ringpost.core.message import (
    Answer,
    Cause,
    Delivery,
    Ended,
    Failure,
    Kind,
    Message,
    Priority,
    Progress,
    Record,
    State,
)
from ringpost.store.port import Exported, Filter


class Row(Struct):
    """One delivery. `ref` rises in commit order; `in_line`: it has a place in its line (head or behind one)."""

    ref: int
    id: bytes
    queue: str
    headers: bytes
    body: bytes
    kind: Kind
    priority: Priority
    created_ms: int
    due_ms: int
    expires_ms: int | None
    line: bytes | None
    dedup: bytes | None
    digest: bytes | None
    keep_s: int
    state: State
    fence: int
    caller: str | None = None
    generation: int = 1
    attempts: int = 0
    losses: int = 0
    holder: int = 0
    lease_ms: int = 0
    started_ms: int | None = None
    settled_ms: int | None = None
    purge_ms: int = 0
    cause: Cause = Cause.NONE
    cancel_asked: bool = False
    in_line: bool = False
    answer: Answer | None = None
    progress: Progress | None = None
    failures: list[Failure] = []

    @property
    def bytes(self) -> int:
        return len(self.headers) + len(self.body)

    @property
    def suspect(self) -> bool:
        return lease.suspect(self.losses)

    def overdue(self, now_ms: int) -> bool:
        return self.expires_ms is not None and self.expires_ms <= now_ms

    def hold(self, holder: int, fence: int, lease_s: float, now_ms: int) -> None:
        """Let somebody have the row under a lease."""
        self.holder, self.fence = holder, fence
        self.lease_ms = now_ms + round(lease_s * 1000)
        self.started_ms = now_ms if self.started_ms is None else self.started_ms

    def drop_hold(self) -> None:
        self.holder = self.lease_ms = 0

    def same_content(self, message: Message | Record) -> bool:
        return (self.queue, self.headers, self.body) == (message.queue, message.headers, message.body)

    def fits(self, filter: Filter) -> bool:
        return (
            self.ref > filter.after
            and (filter.queue is None or self.queue == filter.queue)
            and (filter.kind is None or self.kind is filter.kind)
            and (not filter.states or self.state in filter.states)
        )

    def delivery(self) -> Delivery:
        return Delivery(
            ref=self.ref,
            id=self.id,
            queue=self.queue,
            fence=self.fence,
            attempt=self.attempts + 1,
            losses=self.losses,
            generation=self.generation,
            created_ms=self.created_ms,
            headers=self.headers,
            body=self.body,
            line=self.line,
            expires_ms=self.expires_ms,
            kind=self.kind,
            keep_s=self.keep_s,
            cancel_asked=self.cancel_asked,
            started_ms=self.started_ms,
        )

    def exported(self, heads: bool) -> Exported:
        return Exported(self.record(True), self.line, self.dedup, self.digest, self.caller, heads, sound=True)

    def ended(self, failure_queue: str) -> Ended:
        return Ended(
            id=self.id,
            queue=self.queue,
            state=self.state,
            cause=self.cause,
            attempts=self.attempts,
            generation=self.generation,
            headers=self.headers,
            body=self.body,
            answer=self.answer,
            failures=self.failures,
            failure_queue=failure_queue,
        )

    def record(self, bodies: bool) -> Record:
        return Record(
            ref=self.ref,
            id=self.id,
            queue=self.queue,
            kind=self.kind,
            state=self.state,
            priority=self.priority,
            cause=self.cause,
            attempts=self.attempts,
            losses=self.losses,
            generation=self.generation,
            fence=self.fence,
            created_ms=self.created_ms,
            due_ms=self.due_ms,
            started_ms=self.started_ms,
            settled_ms=self.settled_ms,
            expires_ms=self.expires_ms,
            cancel_asked=self.cancel_asked,
            keep_s=self.keep_s,
            headers=self.headers if bodies else b"{}",
            body=self.body if bodies else b"",
            answer=self.answer,
            progress=self.progress,
            failures=list(self.failures),
        )


def row_of(exported: Exported, ref: int, fence: int) -> Row:
    """Make a row of one from another store; it has no place yet."""
    record = exported.record
    return Row(
        ref=ref,
        id=record.id,
        queue=record.queue,
        headers=record.headers,
        body=record.body,
        kind=record.kind,
        priority=record.priority,
        created_ms=record.created_ms,
        due_ms=record.due_ms,
        expires_ms=record.expires_ms,
        line=exported.line,
        dedup=exported.dedup,
        digest=exported.digest,
        keep_s=record.keep_s,
        state=State.SCHEDULED,
        fence=fence,
        caller=exported.caller,
        generation=record.generation,
        attempts=record.attempts,
        losses=record.losses,
        started_ms=record.started_ms,
        settled_ms=record.settled_ms,
        cause=record.cause,
        cancel_asked=record.cancel_asked,
        answer=record.answer,
        failures=list(record.failures),
    )
