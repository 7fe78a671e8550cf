"""What a sender gets back: what a receipt is worth, and what a ticket shows."""

from datetime import datetime
from typing import Literal

from msgspec import Struct

Level = Literal["durable", "replicated", "buffered", "staged"]
TicketState = Literal["accepted", "running", "succeeded", "failed", "cancelled", "expired"]


class Status(Struct):
    """What a ticket shows of a message. Final per generation; (generation, state) never goes back."""

    state: TicketState
    progress: float | None
    note: str
    attempt: int
    generation: int
    updated_at: datetime
