"""A Problem: a declared no. Exception, dataclass and RFC 9457 body in one."""

from dataclasses import dataclass, field
from typing import ClassVar, dataclass_transform

from ringpost.contract.errors import RingpostError


@dataclass_transform(eq_default=False, field_specifiers=(field,))
class _Fields(RingpostError):
    """Tell type checkers that every Problem is a dataclass without writing the decorator."""


class Problem(_Fields):
    """Declare a no that belongs to the contract; its annotated fields travel with it.

    Raise it in a handler: writes and staged messages are discarded. Return it: they are committed.
    """

    status: ClassVar[int] = 422
    title: ClassVar[str] = "Problem"
    code: ClassVar[str] = "problem"
    detail: str = field(default="", kw_only=True)

    def __init_subclass__(cls, *, status: int | None = None, title: str | None = None, code: str | None = None) -> None:
        super().__init_subclass__()
        cls.status = cls.status if status is None else status
        cls.title = title or cls.__name__
        cls.code = code or cls.__name__.lower()
        dataclass(cls, eq=False, repr=False)


dataclass(Problem, eq=False, repr=False)
