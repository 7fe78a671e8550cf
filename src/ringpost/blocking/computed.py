"""Make blocking classes of asynchronous ones: every public method, with the same parameters, without await.

Nothing is kept twice: what the asynchronous class gains, its blocking one has.
"""

import asyncio
import functools
import inspect
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from typing import Any, ClassVar, Self, get_origin

from ringpost.blocking.portal import LoopPortal, Portal

_WITH = {"__aenter__": "__enter__", "__aexit__": "__exit__"}


class Blocking:
    """Stand for an asynchronous object that lives in the loop behind a portal. `computed` fills subclasses in."""

    _classes: ClassVar[dict[type, type["Blocking"]]] = {}  # asynchronous class → its blocking one
    _object: Any
    _portal: Portal

    @classmethod
    def onto(cls, asynchronous: object, portal: Portal) -> Self:
        """Stand for an object of the portal's loop."""
        made = cls.__new__(cls)
        made._object = asynchronous
        made._portal = portal
        return made

    @classmethod
    def onto_loop(cls, asynchronous: object, loop: asyncio.AbstractEventLoop) -> Self:
        """Stand for an object of a loop that runs in another thread than the one this will be used in."""
        return cls.onto(asynchronous, LoopPortal(loop))

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return outward(getattr(self._object, name), self._portal)

    def __repr__(self) -> str:
        return f"<blocking {self._object!r}>"


def computed(asynchronous: type, *bases: type) -> type[Any]:
    """Make the blocking class of an asynchronous one: its own methods here, those of its bases by `bases`."""
    members: dict[str, Any] = {"__doc__": asynchronous.__doc__, "__module__": "ringpost.blocking"}
    for name, member in vars(asynchronous).items():
        if inspect.isfunction(member) and (not name.startswith("_") or name in _WITH):
            members[_WITH.get(name, name)] = _method(name, member)
    made = type(asynchronous.__name__, bases or (Blocking,), members)
    Blocking._classes[asynchronous] = made
    return made


def outward(value: Any, portal: Portal) -> Any:
    """Give what an asynchronous object gave as threads can use it."""
    if _is_one_of(value, list):
        return [outward(one, portal) for one in value]
    for kind in type(value).__mro__:
        found = Blocking._classes.get(kind)
        if found is not None:
            return found.onto(value, portal)
    return value


def inward(value: Any) -> Any:
    """Give what a thread gave as asynchronous objects can use it."""
    if isinstance(value, Blocking):
        return value._object
    if _is_one_of(value, list, tuple):
        return [inward(one) for one in value]
    return value


def _method(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    if name == "__aenter__":
        call: Callable[..., Any] = _enter
    elif _iterates(function):
        call = _iterating(name, _prepared(function))
    elif _waits(function):
        call = _waiting(name, _prepared(function))
    else:
        call = _asking(name)
    return functools.update_wrapper(call, function, assigned=("__doc__", "__name__", "__qualname__"), updated=())


Prepare = Callable[[tuple[Any, ...], dict[str, Any]], tuple[tuple[Any, ...], dict[str, Any]]]


def _prepared(function: Callable[..., Any]) -> Prepare:
    names = list(inspect.signature(function).parameters)[1:]
    at = names.index("requests") if "requests" in names else -1

    def prepare(values: tuple[Any, ...], options: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        if 0 <= at < len(values):
            # An iterator is run out here: what it does belongs to this thread, not to the loop's.
            values = (*values[:at], list(values[at]), *values[at + 1 :])
        if "after" in options:
            options["after"] = inward(options["after"])
        return values, options

    return prepare


def _enter(self: Blocking) -> Blocking:
    self._portal.run(self._object.__aenter__)
    return self


def _waiting(name: str, prepare: Prepare) -> Callable[..., Any]:
    def call(self: Blocking, /, *values: Any, **options: Any) -> Any:
        values, options = prepare(values, options)
        return outward(self._portal.run(lambda: getattr(self._object, name)(*values, **options)), self._portal)

    return call


def _iterating(name: str, prepare: Prepare) -> Callable[..., Any]:
    def call(self: Blocking, /, *values: Any, **options: Any) -> Iterator[Any]:
        values, options = prepare(values, options)
        return _iterated(getattr(self._object, name)(*values, **options), self._portal)

    return call


def _asking(name: str) -> Callable[..., Any]:
    def call(self: Blocking, /, *values: Any, **options: Any) -> Any:
        return outward(getattr(self._object, name)(*values, **options), self._portal)

    return call


def _iterated(items: AsyncIterator[Any], portal: Portal) -> Iterator[Any]:
    async def following() -> tuple[Any, ...]:
        try:
            return (await anext(items),)
        except StopAsyncIteration:
            return ()

    async def close() -> None:
        if isinstance(items, AsyncGenerator):
            await items.aclose()

    try:
        while found := portal.run(following):
            yield outward(found[0], portal)
    finally:
        portal.run(close)


def _iterates(function: Callable[..., Any]) -> bool:
    """Say whether calling it gives an asynchronous iterator at once."""
    returns = function.__annotations__.get("return")
    return inspect.isasyncgenfunction(function) or get_origin(returns) is AsyncIterator


def _waits(function: Callable[..., Any]) -> bool:
    """Say whether what it gives is awaited: it is `async def`, or says that it gives a coroutine."""
    returns = function.__annotations__.get("return")
    said = returns if isinstance(returns, str) else str(get_origin(returns))
    return inspect.iscoroutinefunction(function) or "Coroutine" in said.partition("[")[0]


def _is_one_of(value: object, *kinds: type) -> bool:
    return isinstance(value, kinds)
