"""Which handler is running in this task: how a plain `Client` notices that it is used inside one ("use ctx.send")."""

from contextvars import ContextVar

handling: ContextVar[object | None] = ContextVar("ringpost_handling", default=None)
"""The running handler's Context; None outside of handlers. Set per call and per message, whatever task they run in."""
