"""What a process knows of the targets that it calls, whatever client or event loop it is that calls: a breaker and the
usual latency for each operation at a target, a budget for each target.

Kept for as long as somebody uses it, and the last thousand beyond that: a client made for one call finds what others
have met. Event loops may be in several threads; what isn't a plain count is changed under `lock`.
"""

import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from weakref import WeakValueDictionary

from msgspec import Struct, field

from ringpost.client.target import Target
from ringpost.core.breaker import Breaker, Forced, Reading, Rule
from ringpost.core.budget import Budget
from ringpost.core.latency import Latency

KEPT_MAX = 1024
_LOG = logging.getLogger("ringpost.client")

_Key = tuple[str, str, str]


class Watch(Struct, weakref=True):
    """What is known of an operation at a target."""

    target: str  # URL
    instance: str  # empty: whoever is behind the URL
    operation: str  # full name
    budget: Budget
    breaker: Breaker = field(default_factory=Breaker)
    latency: Latency = field(default_factory=Latency)


class Guards:
    """The watches of a process."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self._watches: WeakValueDictionary[_Key, Watch] = WeakValueDictionary()
        self._budgets: WeakValueDictionary[str, Budget] = WeakValueDictionary()
        self._recent: OrderedDict[_Key, Watch] = OrderedDict()
        self._forced: dict[str, Mapping[str, Forced]] = {}  # whoever says so → name → what
        self._listeners: set[Callable[[], None]] = set()

    def watch(self, target: Target, operation: str, rule: Rule, now_s: float) -> Watch:
        """Give the watch of an operation at a target; the rule of whoever asks last holds."""
        key = (target.url, target.instance, operation)
        with self.lock:
            watch = self._watches.get(key)
            if watch is None:
                budget = self._budgets.get(target.url)
                if budget is None:
                    budget = self._budgets[target.url] = Budget()
                watch = self._watches[key] = Watch(target.url, target.instance, operation, budget)
                watch.breaker.force(self._forced_for(watch), now_s)
            watch.breaker.rule = rule
            self._recent[key] = watch
            self._recent.move_to_end(key)
            if len(self._recent) > KEPT_MAX:
                self._recent.popitem(last=False)
        return watch

    def all(self) -> list[Watch]:
        """Give all that are known."""
        with self.lock:
            return list(self._watches.values())

    def changed(self, watch: Watch, now_s: float) -> None:
        """Say that the state of a breaker has changed: to the log, and to whoever listens."""
        reading = watch.breaker.reading(now_s)
        if reading.state == "closed":
            _LOG.warning("%s at %s is called again: its breaker has closed", watch.operation, watch.target)
        else:
            _LOG.warning(
                "%s at %s isn't called any more: its breaker has opened, after: %s",
                watch.operation,
                watch.target,
                reading.error,
            )
        self._tell()

    def listen(self, listener: Callable[[], None]) -> None:
        """Have a function called, in any thread, whenever a breaker has changed."""
        self._listeners.add(listener)

    def unlisten(self, listener: Callable[[], None]) -> None:
        """Have it called no more."""
        self._listeners.discard(listener)

    def force(self, source: str, forced: Mapping[str, Forced], now_s: float) -> None:
        """Take note of what operators ask for, by contract, operation, or either with `@` and a target's URL.

        `source`: who passes it on. What it passed on before and doesn't any more is let go.
        """
        with self.lock:
            if self._forced.get(source, {}) == forced:
                return
            self._forced[source] = dict(forced)
            for watch in self.all():
                if watch.breaker.force(self._forced_for(watch), now_s):
                    what = f"forced {watch.breaker.forced}" if watch.breaker.forced else "left to itself"
                    _LOG.warning("the breaker of %s at %s is %s by an operator", watch.operation, watch.target, what)
        self._tell()

    def forget(self) -> None:
        """Know nothing any more; for tests."""
        with self.lock:
            self._watches.clear()
            self._budgets.clear()
            self._recent.clear()
            self._forced.clear()

    def _tell(self) -> None:
        for listener in list(self._listeners):
            listener()

    def _forced_for(self, watch: Watch) -> Forced:
        """Give what is asked for; what names more wins."""
        contract = watch.operation.partition(".")[0]
        for name in (watch.operation, contract):
            for place in (f"{name}@{watch.target}", name):
                for forced in self._forced.values():
                    if place in forced:
                        return forced[place]
        return ""


def readings(guards: Guards, now_s: float) -> list[tuple[Watch, Reading]]:
    """Give every breaker as it is now."""
    with guards.lock:
        return [(watch, watch.breaker.reading(now_s)) for watch in guards.all()]


PROCESS = Guards()
"""Those of this process."""
