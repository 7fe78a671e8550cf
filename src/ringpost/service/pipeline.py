"""The one pipeline: decode → validate → context → middleware → handler → encode → outcome, for calls and messages."""

from ringpost.core.call import Call
from ringpost.core.message import Answer, Delivery, Settlement
from ringpost.service.handler import Handler
from ringpost.service.slots import Slots


class Pipeline:
    """Run handlers. One per Host; it knows which handlings are running and ends them in time."""

    def slots(self, handler: Handler) -> Slots:
        """Give the slots of a handler, shared by calls and messages. `handle_call` takes its own; for a message the
        worker takes one before `handle_message` and gives it back after."""
        raise NotImplementedError

    async def handle_call(self, handler: Handler, call: Call) -> Answer:
        """Answer a call. Never raises but for cancellation (the caller has gone away)."""
        raise NotImplementedError

    async def handle_message(self, handler: Handler, delivery: Delivery, *, charge: bool = True) -> Settlement:
        """Handle a message in the current task, which may be used for the next one after it. Never raises but for a
        cancellation of the task that `cancel` didn't cause.

        `charge=False` (the intake breaker is open): a failure is tried again without counting the attempt. What the
        settlement stages includes the letters to reply_to and on_failure.
        """
        raise NotImplementedError

    def cancel(self, ref: int, reason: str) -> bool:
        """End a running message (by `Delivery.ref`) for the reason (`user`, `lease_lost`, `shutdown`): its context
        shows it, an async handler is cancelled at its next await. False: no such message is running here."""
        raise NotImplementedError
