"""The budget of a target: how many more calls than asked for it may get, by retries and hedges together.

Tokens, at most 10. Each success brings a tenth of one, each retry or hedge takes one, and half of them always stay: so
in an outage there are five retries and then none, and in the long run at most one call more for each ten that go well.
One budget holds for the whole process, however many clients it has.

The figures are gRPC's (proposal A6, retry throttling). There each failure takes a token; here only what is sent on top
costs something.
"""

from msgspec import Struct

TENTHS_MAX = 100
_TOKEN = 10
_KEPT = TENTHS_MAX // 2


class Budget(Struct, weakref=True):
    """What is left for one target, in tenths of a token: whole numbers add up exactly."""

    tenths: int = TENTHS_MAX

    @property
    def tokens(self) -> float:
        return self.tenths / _TOKEN

    def earn(self) -> None:
        """Take note of a call that went well."""
        if self.tenths < TENTHS_MAX:
            self.tenths += 1

    def take(self) -> bool:
        """Take what a retry or hedge costs; False: it must not be made."""
        if self.tenths - _TOKEN < _KEPT:
            return False
        self.tenths -= _TOKEN
        return True
