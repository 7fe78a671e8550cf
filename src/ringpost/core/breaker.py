"""The circuit breaker of one operation at one target: where calls only fail, or only wait, they end at once instead.

    closed ──(≥ 50 % errors, or ≥ 80 % slow, of ≥ 20 calls in 10 s, or sooner by the newest of them)──▶ open
    open ──(pause: 0.5 s, doubled by each probe that fails, at most 2 s)──▶ half open: one call goes out as a probe
    half open ──(a probe fails, or is slow)──▶ open
    half open ──(five probes in a row go well)──▶ closed

After ten good seconds it would take five bad ones until half of the window is bad. So the newest calls are looked at
alone as well: the last half second, the last whole one and so on. A few calls are bad by chance, though. Where three of
ten fail, which opens nothing, half of 20 do once in 21 times; so the newest ones have to be worse than the rule's share
by three standard deviations. Of 20 calls 17 (once in two million times at three of ten), of 100 calls 65, of 1,000
calls 548. And errors are looked at over a second at least: a target that is started anew fails all at once and is there
again.

Never more than one probe is out. What was begun before a change says nothing about the time after it: each change
begins another epoch, and ends of an older one aren't counted. An operator may force it open or closed; let go again, it
goes on from where it was, and one that is open probes at once.

Instants are seconds of one monotonic clock. `error` and the like are texts for people.
"""

from collections import deque
from math import sqrt
from typing import Literal

from msgspec import Struct, field

WINDOW_S = 10
"""How far it looks back at most, in buckets of half a second."""
CALLS_MIN = 20
ERRORS_S_MIN = 1.0
"""Over so long errors of the newest calls are looked at, at least, where the whole window doesn't look bad."""
DEVIATIONS = 3.0
GOOD_CLOSE = 5
PAUSE_S_FIRST = 0.5
PAUSE_S_MAX = 2.0
_BUCKET_S = 0.5
_LOST_S = 1.0  # a probe that is heard of so long after its time was over has been lost with its event loop
_TEXT_MAX = 300

State = Literal["closed", "open", "half_open"]
Forced = Literal["", "open", "closed"]


class Rule(Struct, frozen=True):
    """When it opens: the share of calls that fail, and of those that take `slow_s` or longer; above 1: never."""

    error_rate: float = 0.5
    slow_rate: float = 0.8
    slow_s: float = 2.5


class _Bucket(Struct, frozen=True, gc=False):
    """The calls that ended in half a second."""

    end_s: float
    calls: int
    errors: int
    slow: int


class Reading(Struct, frozen=True):
    """A breaker as it is. `since_s` and `probe_at_s` are instants; the counts are of the last ten seconds."""

    state: State
    forced: Forced
    since_s: float
    probe_at_s: float
    error: str
    calls: int
    errors: int
    slow: int


class Breaker(Struct, weakref=True):
    """Ask `passing` first: while it is True nothing else needs to be asked."""

    rule: Rule = Rule()
    passing: bool = True  # closed and not forced open, or forced closed
    epoch: int = 0
    turn_s: float = float("-inf")  # from then on the current bucket is a past one
    state: State = "closed"
    forced: Forced = ""
    since_s: float = 0.0
    probe_at_s: float = 0.0
    error: str = ""
    calls: int = 0  # of the current bucket, then of the past ones in the window
    _errors: int = 0
    _slow: int = 0
    _past: deque[_Bucket] = field(default_factory=deque[_Bucket])
    _past_calls: int = 0
    _past_errors: int = 0
    _past_slow: int = 0
    _pause_s: float = PAUSE_S_FIRST
    _good: int = 0  # probes in a row
    _probe_until_s: float = 0.0

    # --- before a call

    def probe(self, now_s: float, until_s: float) -> bool:
        """Ask, where it isn't passing, whether this call may go out as the probe; it is to end at `until_s`."""
        if self.passing:
            raise ValueError("a breaker that lets calls pass needs no probe")
        if self.forced == "open" or now_s < self.probe_at_s:
            return False
        if self.state == "half_open" and now_s < self._probe_until_s + _LOST_S:
            return False
        self.state = "half_open"
        self._probe_until_s = until_s
        return True

    # --- after a call. Each says whether the state has changed by it. (A good one that is quick, before `turn_s`, needs
    # no more than `calls += 1`.)

    def good(self, now_s: float, took_s: float) -> bool:
        """Take note of a call that ended well. It must be of this epoch."""
        if now_s >= self.turn_s:
            self.turn(now_s)
        self.calls += 1
        if took_s < self.rule.slow_s:
            return False
        return self.slow(now_s, took_s)

    def slow(self, now_s: float, took_s: float) -> bool:
        """Take note that the call counted last was slow."""
        self._slow += 1
        return self._open_if(now_s, f"calls take {self.rule.slow_s:g} s and longer, the last one {took_s:.3g} s")

    def bad(self, now_s: float, error: str, *, slow: bool = False, counted: bool = False) -> bool:
        """Take note of a call that failed. It must be of this epoch. `counted`: as a slow one, while it was out."""
        if now_s >= self.turn_s:
            self.turn(now_s)
        self._errors += 1
        if not counted:
            self.calls += 1
            self._slow += slow
        self.error = error[:_TEXT_MAX]
        return self._open_if(now_s, error)

    def probed(self, now_s: float, *, good: bool, error: str = "") -> bool:
        """Take note of how the probe ended."""
        if self.state != "half_open":
            return False
        if not good:
            self.state = "open"
            self._good = 0
            self._pause_s = min(self._pause_s * 2, PAUSE_S_MAX)
            self.probe_at_s = now_s + self._pause_s
            if error:
                self.error = error[:_TEXT_MAX]
            return False
        self._good += 1
        self._pause_s = PAUSE_S_FIRST
        self.probe_at_s = now_s
        self.state = "open"
        if self._good < GOOD_CLOSE:
            return False
        self._change("closed", now_s)
        return True

    def unprobed(self, now_s: float, *, pause: bool) -> None:
        """Take note that the probe ended without saying anything; the next one goes now, or after a pause."""
        if self.state == "half_open":
            self.state = "open"
            self.probe_at_s = now_s + (self._pause_s if pause else 0.0)

    def turn(self, now_s: float) -> None:
        """Begin a new bucket, and forget those that are out of the window."""
        past = self._past
        if self.calls:
            past.append(_Bucket(self.turn_s, self.calls, self._errors, self._slow))
            self.calls = self._errors = self._slow = 0
        while past and past[0].end_s <= now_s - WINDOW_S + 2 * _BUCKET_S:  # this one lasts as well, and so did that one
            past.popleft()
        self._past_calls = sum([one.calls for one in past])
        self._past_errors = sum([one.errors for one in past])
        self._past_slow = sum([one.slow for one in past])
        self.turn_s = now_s + _BUCKET_S

    # --- by an operator

    def force(self, forced: Forced, now_s: float) -> bool:
        """Hold it open or closed whatever happens; empty: let it go again. Says whether that is new."""
        if forced == self.forced:
            return False
        self.forced = forced
        if not forced and self.state != "closed":
            self.probe_at_s = now_s
        self._pass()
        return True

    def reading(self, now_s: float) -> Reading:
        """Give it as it is."""
        if now_s >= self.turn_s:
            self.turn(now_s)
        return Reading(
            self.state,
            self.forced,
            self.since_s,
            self.probe_at_s,
            self.error,
            self.calls + self._past_calls,
            self._errors + self._past_errors,
            self._slow + self._past_slow,
        )

    # --- inside

    def _open_if(self, now_s: float, error: str) -> bool:
        """Open if there are enough calls, and enough of them were bad or slow."""
        if self.state != "closed" or self.calls + self._past_calls < CALLS_MIN:
            return False
        if not (self._bad_on_the_whole() or self._bad_of_late(now_s)):
            return False
        self.error = error[:_TEXT_MAX]
        self._pause_s = PAUSE_S_FIRST
        self.probe_at_s = now_s + self._pause_s
        self._change("open", now_s)
        return True

    def _bad_on_the_whole(self) -> bool:
        calls, rule = self.calls + self._past_calls, self.rule
        return (
            self._errors + self._past_errors >= calls * rule.error_rate
            or self._slow + self._past_slow >= calls * rule.slow_rate
        )

    def _bad_of_late(self, now_s: float) -> bool:
        """Say whether the newest calls, those of any number of buckets, are bad by more than chance."""
        calls, errors, slow, rule = self.calls, self._errors, self._slow, self.rule
        begin_s = self.turn_s - _BUCKET_S
        older = reversed(self._past)
        while True:
            if calls >= CALLS_MIN and (
                slow >= beyond_chance(calls, rule.slow_rate)
                or (now_s - begin_s >= ERRORS_S_MIN and errors >= beyond_chance(calls, rule.error_rate))
            ):
                return True
            one = next(older, None)
            if one is None:
                return False
            calls, errors, slow, begin_s = (
                calls + one.calls,
                errors + one.errors,
                slow + one.slow,
                one.end_s - _BUCKET_S,
            )

    def _change(self, state: State, now_s: float) -> None:
        self.state = state
        self.since_s = now_s
        self.epoch += 1
        self._good = 0
        self.calls = self._errors = self._slow = 0
        self._past.clear()
        self._past_calls = self._past_errors = self._past_slow = 0
        self._pass()

    def _pass(self) -> None:
        self.passing = self.forced == "closed" or (self.state == "closed" and not self.forced)


def beyond_chance(calls: int, rate: float) -> float:
    """Give how many of so few calls have to be bad to show that it isn't by chance that they are as many as the rate
    says: more by three standard deviations, or all of them."""
    if rate >= 1.0:
        return calls * rate
    return min(calls * rate + DEVIATIONS * sqrt(calls * rate * (1.0 - rate)), calls)
