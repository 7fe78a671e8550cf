"""What a broken twin is: a store in memory of which one function is another. And what the suite says of it."""

from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest

from ringpost.settings import Settings
from ringpost.store.memory.store import MemoryStore
from ringpost.store.port import Store
from ringpost.testing.conformance import CASES, Advance, Violation, check

BEGIN_MS = 1_800_000_000_000
Function = Callable[..., Any]


class Twin:
    """A kind of store that is `kind`, with other functions in the place of some."""

    def __init__(self, name: str, breaks: str, kind: type[MemoryStore] = MemoryStore) -> None:
        self.name = name
        self.breaks = breaks
        self.kind = kind
        self._replaced: list[tuple[Function, Function]] = []

    def instead_of(self, original: Function) -> Callable[[Function], Function]:
        """Let a function take the place of one more."""

        def put_in_place(broken: Function) -> Function:
            self._replaced.append((original, broken))
            return broken

        return put_in_place

    def install(self, patch: pytest.MonkeyPatch) -> None:
        for original, broken in self._replaced:
            patch.setattr(f"{_owner(original)}.{original.__name__}", _replacement(original, broken))


def instead_of(original: Function) -> Callable[[Function], Twin]:
    """Make a twin of a function that takes the place of one of the store's, and is given that one first."""

    def make(broken: Function) -> Twin:
        name = "".join(word.capitalize() for word in broken.__name__.split("_"))
        twin = Twin(name, broken.__doc__ or "")
        twin.instead_of(original)(broken)
        return twin

    return make


def twins_of(chapter: ModuleType) -> list[Twin]:
    """Give the twins of a module: those made of functions, and the kinds of store that break a method of the port."""
    twins: list[Twin] = []
    for one in vars(chapter).values():
        if isinstance(one, Twin):
            twins.append(one)
        elif isinstance(one, type) and issubclass(one, MemoryStore) and one is not MemoryStore:
            twins.append(Twin(one.__name__, one.__doc__ or "", one))
    return twins


def _owner(function: Function) -> str:
    """Name the module or class that a function is in."""
    return ".".join([function.__module__, *function.__qualname__.split(".")[:-1]])


def _replacement(original: Function, broken: Function) -> Function:
    def replaced(*given: Any, **more: Any) -> Any:
        return broken(original, *given, **more)

    return replaced


class Maker:
    """Makes stores of one kind, with a clock that the suite turns."""

    def __init__(self, kind: type[MemoryStore]) -> None:
        self._kind = kind
        self._passed_ms = 0

    def __call__(self, settings: Settings) -> tuple[Store, Advance]:
        self._passed_ms = 0
        return self._kind(settings, lambda: BEGIN_MS + self._passed_ms), self._advance

    def _advance(self, seconds: float) -> None:
        self._passed_ms += round(seconds * 1000)


async def first_broken(kind: type[MemoryStore]) -> str:
    """Give the first promise that a kind of store breaks."""
    make = Maker(kind)
    for case in CASES:
        try:
            await check(case, make)
        except Violation as violation:
            return f"{case.name}: {violation}"
        except AssertionError:  # the store's own: it noticed that it does what can't be
            continue
    return ""
