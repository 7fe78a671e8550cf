"""How a process of an experiment is: told over its standard input, a word a line, while it serves.

Peers use it too, so that all of them hang, slow down and fail in the same way.
"""

import asyncio
import sys
import threading
import time

from bench.parts.saying import say

SLOWER = 20


class Failing(Exception):
    """What a handler raises while its process is told to fail."""


class Condition:
    """`well`, `hung` (the event loop blocks, as under a blocking call that never ends), `slow` or `failing`.

    At `count` it says what has been counted. When its input ends it is well again, so that it can be ended.
    """

    def __init__(self) -> None:
        self._word = "well"
        self._well = threading.Event()
        self.arrived: dict[str, int] = {}  # requests that reached this process, by path
        self.needed = 0  # calls that the handlers here had to make
        self.done = 0  # handlings that came to their end
        self.noting = False  # the spans too
        self.spans: list[tuple[float, float]] = []  # of each handling: when it began and ended
        self.refusals_ms: list[float] = []

    def listen(self) -> None:
        """Take words from now on, in a thread: the loop may be blocked."""
        threading.Thread(target=self._listen, daemon=True).start()

    async def work(self, seconds: float) -> None:
        """Wait as for a database; longer, for ever or in vain as the condition is."""
        began_s = time.monotonic()
        if self._word == "hung":
            self._well.wait()
        await asyncio.sleep(seconds * SLOWER if self._word == "slow" else seconds)
        if self.noting:
            self.spans.append((began_s, time.monotonic()))
        if self._word == "failing":
            raise Failing
        self.done += 1

    def came(self, path: str) -> None:
        self.arrived[path] = self.arrived.get(path, 0) + 1

    def _listen(self) -> None:
        for line in sys.stdin:
            word = line.strip()
            if word == "count":
                self._count()
            else:
                self._tell(word)
        self._tell("well")

    def _tell(self, word: str) -> None:
        self._word = word
        if word == "hung":
            self._well.clear()
        else:
            self._well.set()
        say(condition=word, at_s=time.monotonic())

    def _count(self) -> None:
        say(
            counted={
                "arrived": self.arrived,
                "needed": self.needed,
                "done": self.done,
                "spans": self.spans,
                "refusals_ms": self.refusals_ms,
            }
        )
