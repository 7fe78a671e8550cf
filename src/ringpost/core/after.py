"""Reading one's own asynchronous writes: a call that names messages, and is handled once their effects are there.

What it names travels as a token: the id of a store, and at most 64 ids of messages or events that this store keeps.
Only what these do themselves counts (direct effects), not what they send on: of an event, that every subscriber has
handled it. Whoever answers for the store looks where they stand, and decides by one rule: all have succeeded, so go on;
one has ended otherwise, so they never will; else wait, for a bounded time.
"""

from collections.abc import Mapping, Sequence
from typing import Literal

from msgspec import Struct

from ringpost.core import ids
from ringpost.core.keep import KEEP_PLAIN_S
from ringpost.core.life import ticket_state
from ringpost.core.message import Answer, Record
from ringpost.core.outcome import problem_answer
from ringpost.core.receipt import TicketState

WAIT_S_MAX = 5.0
IDS_MAX = 64
MARGIN_S = 0.020
"""How long before its deadline a call that still waits is answered: the caller is to learn that nothing was done."""

Standing = TicketState | Literal["unknown", "gone"]
"""Where one of them stands, in the words of tickets. `unknown`: nothing of it is there yet; `gone`: nor will be, as it
is so old that what had ended is kept no longer."""

Verdict = Literal["there", "not_yet", "never", "gone"]


class Awaited(Struct, frozen=True):
    """A message, or with its full name an event, whose effects are waited for. `id` is 16 bytes."""

    id: bytes
    event: str = ""

    @property
    def text(self) -> str:
        """The id as users know it."""
        return ids.text(self.id)


class After(Struct, frozen=True):
    """The token: which store, and what of it."""

    store_id: str
    awaited: tuple[Awaited, ...]


def until_s(now_s: float, deadline_s: float) -> float:
    """Give the instant until which to wait: 5 s at most, and within the call's deadline."""
    return min(now_s + WAIT_S_MAX, deadline_s - MARGIN_S)


def standing_of(awaited: Awaited, records: Sequence[Record | None], now_ms: int) -> Standing:
    """Say where a message stands, or an event by its deliveries: as the one that is least far, but first of all as one
    that has failed. A delivery that isn't there belongs to who subscribed later."""
    states: set[Standing] = {ticket_state(record) for record in records if record is not None}
    if not states:
        return "gone" if _is_old(awaited.id, now_ms) else "unknown"
    return next(word for word in _FIRST if word in states)


def _is_old(id: bytes, now_ms: int) -> bool:
    return ids.is_uuid7(id) and now_ms - ids.created_ms(id) > KEEP_PLAIN_S * 1000


def verdict_of(standings: Mapping[Awaited, Standing]) -> Verdict:
    """Decide by where all of them stand."""
    if any(word in _ENDED_OTHERWISE for word in standings.values()):
        return "never"
    if "gone" in standings.values():
        return "gone"
    return "there" if all(word == "succeeded" for word in standings.values()) else "not_yet"


def refusal(standings: Mapping[Awaited, Standing], operation: str) -> Answer:
    """Answer a call whose effects aren't there: 409, naming what it waits for and where that stands."""
    verdict = verdict_of(standings)
    shown = {awaited: word for awaited, word in standings.items() if word != "succeeded"}
    if verdict != "not_yet":
        shown = {awaited: word for awaited, word in shown.items() if word == "gone" or word in _ENDED_OTHERWISE}
    said = ", ".join(f"{awaited.text} ({word})" for awaited, word in shown.items())
    members = {"messages": [{"id": awaited.text, "state": word} for awaited, word in shown.items()]}
    return problem_answer(verdict, _SAID[verdict] + said, operation=operation, processed=False, members=members)


def not_here(operation: str) -> Answer:
    """Answer a call that names messages of another store: here nobody can say where they stand."""
    detail = "The messages it is to come after are in another store than this service's."
    return problem_answer("not_here", detail, operation=operation, processed=False)


_ENDED_OTHERWISE = frozenset({"failed", "cancelled", "expired"})
_FIRST: tuple[Standing, ...] = ("failed", "cancelled", "expired", "accepted", "running", "succeeded")
_SAID: Mapping[str, str] = {
    "not_yet": "The effects it is to come after aren't there yet: ",
    "never": "The effects it is to come after will not come; these ended without success: ",
    "gone": "The messages it is to come after are kept no longer, so nobody can tell whether they took effect: ",
}
