"""What calls of one operation to one target go through in one event loop: breaker, bulkhead, budget, the hedge's time.

Each attempt asks before and tells after, and while it is out from when it is late. While the breaker is closed and
there is room, asking is two comparisons.
"""

import asyncio
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from ringpost.client.attempt import Attempt, Missed
from ringpost.client.bulkhead import Bulkhead
from ringpost.client.guards import Guards, Watch
from ringpost.client.hedge import Hedge, Second
from ringpost.client.outgoing import Posted
from ringpost.client.sweep import NEVER_S
from ringpost.contract.errors import TransportError, Unavailable
from ringpost.core.attempt import NEUTRAL, End, end_of_answer, end_of_error
from ringpost.core.budget import TENTHS_MAX
from ringpost.core.hedge import hedge_at_s, patience_s
from ringpost.core.policy import Policy
from ringpost.wire.headers import retry_after_s
from ringpost.wire.problem import PROCESSED, refusal_of

SAMPLE_S = 0.001
"""Lengths of time are learned from once in so long: a thousand a second tell as much as all of them."""

if TYPE_CHECKING:  # it loads the HTTP parser
    from ringpost.client.connection import Connection, Received


class Guard:
    """Of one operation at one target."""

    __slots__ = (
        "_guards",
        "_sample_s",
        "breaker",
        "budget",
        "bulkhead",
        "latency",
        "patience_s",
        "policy",
        "relays",
        "second",
        "watch",
    )

    def __init__(
        self, guards: Guards, watch: Watch, policy: Policy, bulkhead: Bulkhead, second: Second | None, *, relays: bool
    ) -> None:
        """`second` hedges, where the operation is declared to have no effect. `relays`: what is answered is how
        messages ended."""
        self._guards = guards
        self._sample_s = 0.0  # from then on the next length of time is taken
        self.watch = watch
        self.breaker = watch.breaker
        self.budget = watch.budget
        self.latency = watch.latency
        self.policy = policy
        self.bulkhead = bulkhead
        self.second = second
        self.relays = relays
        self.patience_s = 0.0  # so long without an answer isn't late
        self._be_patient()

    # --- before

    def may_probe(self, this: Attempt) -> bool:
        """Ask, where the breaker isn't passing, whether this attempt may be its probe, and make it one.

        Who else asks waits for how it ends: so a probe doesn't ask for an answer to be waited for, and is slow once it
        would be for others.
        """
        probe = this.out if this.out.timed else this.out.brief()
        until_s = min(this.until_s, this.began_s + self.breaker.rule.slow_s) if probe.timed else this.until_s
        with self._guards.lock:
            if self.breaker.passing:
                return True
            this.probe = self.breaker.probe(this.began_s, until_s)
        if this.probe:
            this.out, this.until_s = probe, until_s
        return this.probe

    def refusal(self, now_s: float) -> Missed:
        """Give what a call is told that isn't made."""
        reading = self.breaker.reading(now_s)
        name = f"{self.watch.operation} at {self.watch.target}"
        if reading.forced == "open":
            again_s = None
            text = (
                f"{name} isn't called: an operator has opened its breaker. `ringpost breakers auto "
                f"{self.watch.operation}` lets it go."
            )
        else:
            again_s = max(reading.probe_at_s - now_s, 0.0)
            since = datetime.fromtimestamp(time.time() - (now_s - reading.since_s), UTC)
            soon = f"in {again_s:.1f} s" if again_s else "when the probe that is under way has ended"
            text = (
                f"{name} isn't called: its breaker has been open since {since:%H:%M:%S} UTC, "
                f"{now_s - reading.since_s:.1f} s, and probes next {soon}. The last error was: {reading.error}"
            )
        error = Unavailable(text, processed="no", retry_after=again_s)
        return Missed(NEUTRAL, True, error=error, refused=True)

    def may_hedge(self) -> bool:
        """Say whether a second request may come here now, and take what it costs."""
        return self.breaker.passing and self.bulkhead.may_take() and self.afford()

    def afford(self) -> bool:
        """Take what one more request than was asked for costs."""
        with self._guards.lock:
            return self.budget.take()

    # --- meanwhile

    def late(self, this: Attempt, now_s: float, connection: "Connection", answer: "asyncio.Future[Received]") -> float:
        """Do what is to be done where there is no answer yet; gives when to look again.

        After the usual time a second request is sent, if the call may have one. After `slow_s` it is slow for certain,
        and counts: who hangs is known before the first deadline.
        """
        next_s = NEVER_S
        slow_at_s = this.began_s + self.breaker.rule.slow_s
        if now_s < slow_at_s:
            next_s = slow_at_s
        elif not this.overdue:
            self._overdue(this, now_s)
        hedge_s = self._hedge_at_s(this)
        if hedge_s is None:
            return next_s
        if now_s < hedge_s:
            return min(hedge_s, next_s)
        assert self.second is not None and isinstance(this.out, Posted)
        this.hedge = Hedge()
        this.hedge.begin(self.second(this.target, this.out), connection, answer)
        return next_s

    # --- after

    def good(self, this: Attempt, now_s: float) -> None:
        """Take note of an answer."""
        breaker, budget, bulkhead = self.breaker, self.budget, self.bulkhead
        took_s = now_s - this.began_s
        if this.probe or now_s >= breaker.turn_s or took_s >= breaker.rule.slow_s:
            self._good(this, now_s, took_s if this.out.timed else 0.0)
        elif this.epoch == breaker.epoch:
            breaker.calls += 1
        if budget.tenths < TENTHS_MAX:
            budget.earn()
        if now_s >= self._sample_s and this.out.timed:
            self._learn(now_s, took_s)
        bulkhead.taken -= 1
        places = bulkhead.places
        places.free += 1
        if places.lines:
            places.wake()

    def answered(self, this: Attempt, now_s: float, received: "Received") -> Missed | None:
        """Take note of what isn't a reply; None where it is an answer all the same."""
        refusal = refusal_of(received.body)
        end = end_of_answer(received.status, refusal.code, retryable=refusal.retryable)
        if (end.feeds == "good" and not end.again) or (self.relays and refusal.code and not end.again):
            self.good(this, now_s)
            return None
        headers = dict(received.response().headers)
        said = f"{self.watch.operation} at {self.watch.target} answered with status {received.status}"
        self._count(this, now_s, end, f"{said} ({refusal.code})" if refusal.code else said)
        return Missed(
            end,
            headers.get(PROCESSED) == "no",
            retry_after_s(headers.get("retry-after"), time.time()),
            received=received,
            code=refusal.code,
            guard=self,
        )

    def failed(self, this: Attempt, now_s: float, error: TransportError) -> Missed:
        """Take note that no answer came."""
        end = end_of_error(error)
        self._count(this, now_s, end, str(error))
        return Missed(end, error.processed == "no", error=error, guard=self)

    def left(self, this: Attempt, now_s: float) -> None:
        """Take note that nobody waits for it any more: of the target that says something only if it was slow."""
        took_s = now_s - this.began_s
        slow = this.out.timed and took_s >= self.breaker.rule.slow_s
        if slow:
            self._good(this, now_s, took_s)
        elif this.probe:
            with self._guards.lock:
                self.breaker.unprobed(now_s, pause=False)
        self.bulkhead.give()

    # --- inside

    def _good(self, this: Attempt, now_s: float, took_s: float) -> None:
        breaker = self.breaker
        with self._guards.lock:
            if this.probe:
                slow = took_s >= breaker.rule.slow_s
                changed = breaker.probed(now_s, good=not slow, error=f"the probe took {took_s:.3g} s" if slow else "")
            elif this.overdue:
                changed = False
            else:
                changed = this.epoch == breaker.epoch and breaker.good(now_s, took_s)
            if changed:
                self._guards.changed(self.watch, now_s)
        if not breaker.passing:
            self.bulkhead.dismiss()

    def _overdue(self, this: Attempt, now_s: float) -> None:
        self._good(this, now_s, now_s - this.began_s)  # how it ends is another matter
        this.overdue = True

    def _learn(self, now_s: float, took_s: float) -> None:
        self._sample_s = now_s + SAMPLE_S
        with self._guards.lock:
            self.latency.note(took_s)
        self._be_patient()

    def _be_patient(self) -> None:
        slow_s, p95_s = self.breaker.rule.slow_s, self.latency.p95_s
        self.patience_s = slow_s if p95_s is None or self.second is None else min(slow_s, patience_s(p95_s))

    def _hedge_at_s(self, this: Attempt) -> float | None:
        """Give when a second request is worth it; None: never, or there was one."""
        out, p95_s = this.out, self.latency.p95_s
        if self.second is None or p95_s is None or this.hedge is not None or this.probe:
            return None
        if out.attempt != 1 or not isinstance(out, Posted) or not out.options.get("hedge", self.policy.hedge):
            return None
        return hedge_at_s(this.began_s, this.until_s, p95_s)

    def _count(self, this: Attempt, now_s: float, end: End, text: str) -> None:
        """Let breaker and bulkhead know of an attempt that didn't go well."""
        took_s = now_s - this.began_s
        feeds = end.feeds
        if end.late and not this.probe and self._impatient(this):
            feeds = ""
        with self._guards.lock:
            changed = self._fed(this, now_s, feeds, text, slow=this.out.timed and took_s >= self.breaker.rule.slow_s)
            if changed:
                self._guards.changed(self.watch, now_s)
        if not self.breaker.passing:
            self.bulkhead.dismiss()
        self.bulkhead.give()

    def _fed(self, this: Attempt, now_s: float, feeds: str, text: str, *, slow: bool) -> bool:
        breaker = self.breaker
        if this.probe:
            if feeds:
                return breaker.probed(now_s, good=feeds == "good", error=text)
            breaker.unprobed(now_s, pause=True)
            return False
        if not feeds or this.epoch != breaker.epoch:
            return False
        if feeds == "good":
            return not this.overdue and breaker.good(now_s, 0.0)
        return breaker.bad(now_s, text, slow=slow, counted=this.overdue)

    def _impatient(self, this: Attempt) -> bool:
        """Say whether it had less time than such a call usually takes: that it wasn't enough says nothing."""
        p95_s = self.latency.p95_s
        return p95_s is not None and this.until_s - this.began_s < p95_s
