"""What handlings are told and bound by that are only to show what would happen: see `rehearsal.py`."""

from collections.abc import Iterable
from typing import Any, NoReturn

from ringpost.contract.errors import UsageError
from ringpost.contract.operation import Operation
from ringpost.core.message import Message
from ringpost.store.port import Put


class DryRun:
    """One rehearsed handling after the other.

    `sent` is what would have left at once, as by `ctx.now`. `refused`: what was asked for that a rehearsal doesn't do,
    the first; from then on nobody can say how the handling would have ended, whatever its handler makes of the error.
    """

    def __init__(self) -> None:
        self.sent: list[Message] = []
        self.refused = ""

    def begin(self) -> None:
        """Forget the handling before."""
        self.sent, self.refused = [], ""

    def capture(self, messages: Iterable[Message]) -> list[Put]:
        """Keep what would be sent, and answer as a store that took it."""
        taken = list(messages)
        self.sent += taken
        return [Put(message.id) for message in taken]

    def refuse(self, why: str) -> NoReturn:
        """Raise UsageError, and remember it."""
        self.refused = self.refused or why
        raise UsageError(f"{why} Look at ctx.dry_run first.")

    def check_call(self, operation: Operation[Any, Any], verb: str) -> None:
        """Refuse a call that may change something, or that may be kept as a message."""
        if operation.effect != "read":
            self.refuse(
                f"ctx.{verb}({operation.full_name}) in a dry run: nothing would undo what it does there. Only what is "
                'declared with effect="read" is called.'
            )
        if verb == "call_or_send":
            self.refuse(
                f"ctx.call_or_send({operation.full_name}) in a dry run: who is asked may keep it as a message, which "
                "nothing would undo."
            )

    def check_awaited(self, ids: Iterable[bytes]) -> None:
        """Refuse to look for what was only captured: it is in no store, and nobody will ever handle it."""
        captured = {message.id for message in self.sent}
        if not captured.isdisjoint(ids):
            self.refuse("A message was waited for that a dry run has only captured: nobody handles it.")
