"""How much of an operation one process does at a time: integers, counted by calls and messages together.

A semaphore costs 0.7 µs a message and makes callers wait; here nobody waits. A call that finds no slot is refused, a
worker claims at most as many messages as are free.
"""

from collections.abc import Callable


class Slots:
    """The slots of one operation in this process. Not thread-safe: only the event loop counts.

    A slot is `lost` while a `def` handler that was given up still holds its thread; it comes back when that ends.
    """

    __slots__ = ("freed", "lost", "name", "total", "used")

    def __init__(self, total: int, name: str = "") -> None:
        self.total = total
        self.name = name
        self.used = 0
        self.lost = 0
        self.freed: Callable[[], None] | None = None  # called when a slot becomes free again in a full set

    @property
    def free(self) -> int:
        """How many more may start now."""
        return self.total - self.used

    def take(self) -> bool:
        """Take a slot if one is free."""
        if self.used >= self.total:
            return False
        self.used += 1
        return True

    def give(self) -> None:
        """Give a slot back."""
        assert self.used > 0, "a slot was given back twice"
        self.used -= 1
        if self.freed is not None and self.used == self.total - 1:
            self.freed()

    def give_back(self, count: int) -> None:
        """Give back slots that were taken ahead and not needed."""
        if count:
            was_full = self.used >= self.total
            self.used -= count
            if was_full and self.used < self.total and self.freed is not None:
                self.freed()

    def lose(self) -> None:
        """Count a slot as lost, beside the one that its handling gives back."""
        self.used += 1
        self.lost += 1

    def recover(self) -> None:
        """Take a lost slot back into use: its thread has ended."""
        self.lost -= 1
        self.give()
