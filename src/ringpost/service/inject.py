"""How a handler is called: worked out once at start, so that a call costs a call.

`Resources` holds what lives as long as the process. `Injector` makes of a handler a function (context, request) → what
the handler returns; for the common signatures nothing else happens in between.
"""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Iterable, Mapping
from typing import Any, cast

from msgspec import Struct

from ringpost.contract.errors import UsageError
from ringpost.service.provide import Parameter, Source, Sources, name_of
from ringpost.service.slots import Slots
from ringpost.service.threads import Threads
from ringpost.service.transaction import Begin, Transaction

Invoke = Callable[[Any, Any], Awaitable[object]]
"""(context, request) → the handler's result, awaited."""

_Opened = Generator[object, None, None] | AsyncGenerator[object, None]


class Step(Struct, frozen=True):
    """One thing to make: from which source, with which of the values made before."""

    source: Source
    arguments: tuple[int, ...]
    keywords: tuple[tuple[str, int], ...]


class Resources:
    """What the services of a process share: made in the order of their needs, ended in the opposite one.

    Opened and closed in one task of their own, as libraries with cancel scopes want it. A provider that two services
    name is made once.
    """

    def __init__(self, sources: Iterable[Sources], begin: Begin | None = None) -> None:
        """`begin`: how a resource that takes a Transaction gets one; None where no store runs SQL."""
        self._sources = list(sources)
        self._begin = begin
        self._made: dict[Source, object] = {}
        self._closing = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Make them all. Raises what a provider raises, after ending those that were made."""
        opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._task = asyncio.create_task(self._live(opened), name="ringpost-resources")
        await asyncio.wait([self._task, opened], return_when=asyncio.FIRST_COMPLETED)
        if self._task.done():
            await self._task

    async def close(self) -> None:
        """End them. Raises what one of them raises at its end."""
        self._closing.set()
        if self._task is not None:
            task, self._task = self._task, None
            await task

    def of(self, sources: Sources) -> dict[object, object]:
        """Give the resources of one service by type."""
        return {source.provides: self._made[source] for source in sources.resource_order()}

    async def _live(self, opened: asyncio.Future[None]) -> None:
        generators: list[_Opened] = []
        try:
            for sources in self._sources:
                known: dict[object, object] = {}
                for source in sources.resource_order():
                    if source not in self._made:
                        self._made[source] = await self._make(source, known, generators)
                    known[source.provides] = self._made[source]
            opened.set_result(None)
            await self._closing.wait()
        except BaseException as error:
            await end_failed(generators, error)
            raise
        await end(generators)

    async def _make(self, source: Source, known: Mapping[object, object], generators: list[_Opened]) -> object:
        """Make a resource. What it writes in a Transaction is committed once it is made: so tables come to be."""
        if all(parameter.type is not Transaction for parameter in source.parameters):
            return await _make_named(source, known, generators)
        if self._begin is None:
            raise UsageError(
                f"{name_of(source.function)} takes a Transaction, and this process has no store that runs SQL. Set "
                "`store` in ringpost.toml or RINGPOST_STORE, as in sqlite:///ringpost.db."
            )
        task = asyncio.current_task()
        assert task is not None
        transaction = Transaction(self._begin, task)
        try:
            made = await _make_named(source, {**known, Transaction: transaction}, generators)
            transaction._end()
            await transaction._commit(None)
        except BaseException:
            await transaction._rollback()
            raise
        return made


class Injector:
    """Makes of the handlers of one service what the pipeline runs."""

    def __init__(
        self,
        sources: Sources,
        resources: Mapping[object, object],
        threads: Threads,
        givens: Mapping[object, Callable[[Any], object]],
    ) -> None:
        """`givens`: the types that need no provider, each with what makes it of the handling's Context."""
        self._sources = sources
        self._resources = resources
        self._threads = threads
        self._givens = givens

    def invoke(
        self, function: Callable[..., Any], in_loop: bool, parameters: tuple[Parameter, ...], slots: Slots
    ) -> Invoke:
        """Compile a call of the function. Raises UsageError for a parameter that nothing provides."""
        order = self._sources.provide_order(parameters, frozenset(self._givens), name_of(function))
        direct = not order and all(
            one.type in self._resources or (one.type in self._givens and not one.keyword) for one in parameters
        )
        if in_loop and direct:
            fast = self._fast(function, parameters)
            if fast is not None:
                return fast
        return self._general(function, in_loop, parameters, order, slots)

    def _fast(self, function: Callable[..., Any], parameters: tuple[Parameter, ...]) -> Invoke | None:
        """The usual signatures: the request alone, with its context, its transaction, or both."""
        if any(one.type not in self._givens or one.keyword for one in parameters):
            return None
        match [self._givens[one.type] for one in parameters]:
            case []:
                return lambda ctx, request: function(request)
            case [make] if make is itself:
                return lambda ctx, request: function(request, ctx)
            case [make]:
                return lambda ctx, request: function(request, make(ctx))
            case [one, other]:
                return lambda ctx, request: function(request, one(ctx), other(ctx))
            case _:
                return None

    def _general(
        self,
        function: Callable[..., Any],
        in_loop: bool,
        parameters: tuple[Parameter, ...],
        order: list[Source],
        slots: Slots,
    ) -> Invoke:
        at: dict[object, int] = {kind: index for index, kind in enumerate(self._givens)}
        makers = tuple(self._givens.values())
        constants: list[object] = []
        for kind, value in self._resources.items():
            at[kind] = len(makers) + len(constants)
            constants.append(value)
        steps: list[Step] = []
        for source in order:
            steps.append(Step(source, *_places(source.parameters, at)))
            at[source.provides] = len(makers) + len(constants) + len(steps) - 1
        arguments, keywords = _places(parameters, at)
        threads = self._threads

        async def invoke(ctx: Any, request: Any) -> object:
            values = [make(ctx) for make in makers]
            values += constants
            opened: list[_Opened] = []
            try:
                for step in steps:
                    values.append(await _make(step.source, step.arguments, step.keywords, values, opened))
                given = [values[place] for place in arguments]
                named = {name: values[place] for name, place in keywords}
                if in_loop:
                    result = await function(request, *given, **named)
                else:
                    result = await threads.run(slots, function, request, *given, **named)
            except BaseException as error:
                if opened:
                    await end_failed(opened, error)
                raise
            if opened:
                await end(opened)
            return cast(object, result)

        return invoke


def itself(ctx: Any) -> object:
    """Give the context as it is."""
    return ctx


def _places(
    parameters: tuple[Parameter, ...], at: Mapping[object, int]
) -> tuple[tuple[int, ...], tuple[tuple[str, int], ...]]:
    """Say where the values of these parameters stand. One that keeps its default ends what is given by position."""
    arguments: list[int] = []
    keywords: list[tuple[str, int]] = []
    by_name = False
    for parameter in parameters:
        place = at.get(parameter.type)
        if place is None:
            by_name = True
        elif by_name or parameter.keyword:
            keywords.append((parameter.name, place))
        else:
            arguments.append(place)
    return tuple(arguments), tuple(keywords)


async def _make_named(source: Source, known: Mapping[object, object], opened: list[_Opened]) -> object:
    at = {kind: index for index, kind in enumerate(known)}
    arguments, keywords = _places(source.parameters, at)
    return await _make(source, arguments, keywords, list(known.values()), opened)


async def _make(
    source: Source,
    arguments: tuple[int, ...],
    keywords: tuple[tuple[str, int], ...],
    values: list[object],
    opened: list[_Opened],
) -> object:
    made = source.function(*[values[place] for place in arguments], **{name: values[place] for name, place in keywords})
    if source.shape == "plain":
        return made
    if source.shape == "async":
        return await made
    try:
        value: object = await anext(made) if source.shape == "async_generator" else next(made)
    except (StopIteration, StopAsyncIteration):
        raise RuntimeError(f"the provider {name_of(source.function)} ended without a yield") from None
    opened.append(made)
    return value


async def end(opened: list[_Opened]) -> None:
    """Run what stands after the yields, last made first. If one fails, the others see its failure."""
    while opened:
        generator = opened.pop()
        try:
            with contextlib.suppress(StopIteration, StopAsyncIteration):
                if isinstance(generator, AsyncGenerator):
                    await anext(generator)
                else:
                    next(generator)
                raise RuntimeError("a provider must yield once, and this one yielded twice")
        except BaseException as error:
            await end_failed(opened, error)
            raise


async def end_failed(opened: list[_Opened], error: BaseException) -> None:
    """Tell the providers, last made first, that the handling failed. They may look at the error, not swallow it; one
    that fails itself is noted at the error."""
    while opened:
        generator = opened.pop()
        try:
            if isinstance(generator, AsyncGenerator):
                await generator.athrow(error)
            else:
                generator.throw(error)
        except (StopIteration, StopAsyncIteration):
            pass
        except BaseException as another:  # noqa: BLE001 (whatever it is, the first failure is the one to report)
            if another is not error:
                error.add_note(f"A provider failed as well, while it ended: {another!r}")
