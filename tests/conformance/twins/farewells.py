"""Stores that tell wrongly of the ends that they make."""

from collections.abc import Callable
from typing import Any

from ringpost.store.memory import end
from twins.twin import instead_of

End = Callable[..., None]


@instead_of(end.end)
def tells_nobody(end_row: End, *given: Any, **more: Any) -> None:
    """Ends messages in silence."""
    more["told"] = True
    end_row(*given, **more)


@instead_of(end.end)
def tells_twice(end_row: End, *given: Any, **more: Any) -> None:
    """Tells of ends that the worker tells of."""
    more["told"] = False
    end_row(*given, **more)
