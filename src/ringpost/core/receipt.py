"""What a sender gets back: what a receipt is worth, and what a ticket shows."""

from datetime import datetime
from typing import Literal

from msgspec import Struct

Level = Literal["durable", "replicated", "buffered", "staged"]
TicketState = Literal["accepted", "running", "succeeded", "failed", "cancelled", "expired"]


class Status(Struct):
    """Show how far a message is. Final per generation; (generation, state) never goes back.

    `progress`: 0 to 1, None where the handler said nothing. `attempt`: how often it was begun. `generation`: 1, and one
    more with each replay. `updated_at`: aware, UTC.
    """

    state: TicketState
    progress: float | None
    note: str
    attempt: int
    generation: int
    updated_at: datetime
