"""What handlers get beside the request: parameters by type, from functions that provide them.

A provider is a function, an async function, a generator or an async generator (what stands after its `yield` runs when
the handling or the process ends). Its return annotation is what it provides; its own parameters are provided likewise.
A *resource* lives as long as the process, what is *provided* as long as the handling of one message or call.
"""

import inspect
import typing
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Callable,
    Generator,
    Iterable,
    Iterator,
    Mapping,
)
from types import FrameType, UnionType
from typing import Annotated, Any, Literal, cast, get_args, get_origin

from msgspec import Struct

from ringpost.contract.errors import UsageError, listed
from ringpost.contract.vocabulary import Provider
from ringpost.service.lender import Lender
from ringpost.service.transaction import Transaction

Shape = Literal["plain", "async", "generator", "async_generator"]

_YIELDED = {Iterator, Iterable, Generator, AsyncIterator, AsyncIterable, AsyncGenerator}
_UNNAMED = object()


class Parameter(Struct, frozen=True):
    """One parameter that is filled by its type."""

    name: str
    type: object
    optional: bool  # it has a default, which stays where nothing provides the type
    keyword: bool


class Source(Struct, frozen=True):
    """A provider as read from its signature."""

    provides: object
    function: Callable[..., Any]
    shape: Shape
    parameters: tuple[Parameter, ...]


def source_of(provider: Provider) -> Source:
    """Read a provider's signature. Raises UsageError where it doesn't say what it provides."""
    if not callable(provider):
        raise UsageError(f"{provider!r} provides nothing: give a function, with its return type annotated.")
    if inspect.isclass(provider):
        return Source(provider, provider, "plain", parameters_of(provider.__init__, skip=1, owner=name_of(provider)))
    function = cast(Callable[..., Any], provider)
    hints = hints_of(function)
    if isinstance(provider, Lender):
        return Source(provider.provides, function, "plain", parameters_of(function, hints=hints))
    shape = _shape(function)
    if "return" not in hints:
        raise UsageError(
            f"{name_of(function)} doesn't say what it provides; annotate what it "
            f"{'yields' if 'generator' in shape else 'returns'}, as in `-> Repository`."
        )
    provides = hints["return"]
    if "generator" in shape:
        if get_origin(provides) not in _YIELDED:
            raise UsageError(f"{name_of(function)} yields: annotate it `-> {_iterator(shape)}[…]` of what it provides.")
        provides = get_args(provides)[0]
    if provides in (None, type(None), Any, object):
        raise UsageError(f"{name_of(function)} provides {provides}, which no parameter can be told from. Name a type.")
    return Source(provides, function, shape, parameters_of(function, hints=hints))


def parameters_of(
    function: Callable[..., Any], *, skip: int = 0, hints: Mapping[str, Any] | None = None, owner: str = ""
) -> tuple[Parameter, ...]:
    """Read the parameters that are filled by type, without the first `skip`."""
    owner = owner or name_of(function)
    hints = hints_of(function) if hints is None else hints
    found: list[Parameter] = []
    for parameter in list(inspect.signature(function).parameters.values())[skip:]:
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        optional = parameter.default is not parameter.empty
        annotation = hints.get(parameter.name, _UNNAMED)
        if annotation is not _UNNAMED:
            keyword = parameter.kind is parameter.KEYWORD_ONLY
            found.append(Parameter(parameter.name, annotation, optional, keyword))
        elif not optional:
            raise UsageError(
                f"The parameter {parameter.name} of {owner} has no type; parameters are filled by type, "
                f"as in `{parameter.name}: Repository`."
            )
    return tuple(found)


def hints_of(function: Callable[..., Any], frame: FrameType | None = None) -> dict[str, Any]:
    """Give the annotations as types. `frame`: where a function was declared, for names that are local there.

    Raises UsageError for an annotation that names what isn't there.
    """
    plain = inspect.unwrap(function)
    plain = plain.func if hasattr(plain, "func") else plain
    if not inspect.isfunction(plain) and not inspect.ismethod(plain):
        if plain is object.__init__:
            return {}
        plain = type(plain).__call__
    local: dict[str, Any] = {} if frame is None else dict(frame.f_locals)
    try:
        local.update({name: cell.cell_contents for name, cell in _cells(plain)})
        return typing.get_type_hints(plain, localns=local, include_extras=True)
    except NameError as error:
        raise UsageError(
            f"{name_of(function)} is annotated with {error.name}, which isn't known where it was defined. "
            "Import it there (not only `if TYPE_CHECKING`)."
        ) from error


def name_of(function: object) -> str:
    """Name a function, class or object as its author would look for it."""
    named = getattr(function, "func", function)
    module, name = getattr(named, "__module__", ""), getattr(named, "__qualname__", "")
    return f"{module}.{name}" if name else repr(function)


def type_name(annotation: object) -> str:
    """Name a type as it was written."""
    if isinstance(annotation, type) and get_origin(annotation) is None:
        return annotation.__name__
    if isinstance(annotation, UnionType) or get_origin(annotation) is not None:
        return str(annotation).replace("typing.", "")
    return repr(annotation)


def bare(annotation: object) -> object:
    """Give the type inside an `Annotated`."""
    return get_args(annotation)[0] if get_origin(annotation) is Annotated else annotation


def is_async(function: Callable[..., Any]) -> bool:
    """Say whether calling it gives a coroutine, also for partials and objects with an async `__call__`."""
    named = getattr(function, "func", function)
    return inspect.iscoroutinefunction(named) or inspect.iscoroutinefunction(getattr(named, "__call__", None))  # noqa: B004


def _shape(function: Callable[..., Any]) -> Shape:
    named = getattr(function, "func", function)
    if inspect.isasyncgenfunction(named):
        return "async_generator"
    if inspect.isgeneratorfunction(named):
        return "generator"
    return "async" if is_async(function) else "plain"


def _iterator(shape: Shape) -> str:
    return "AsyncIterator" if shape == "async_generator" else "Iterator"


def _cells(function: Any) -> Iterator[tuple[str, Any]]:
    code, closure = getattr(function, "__code__", None), getattr(function, "__closure__", None)
    if code is not None and closure:
        for name, cell in zip(code.co_freevars, closure, strict=True):
            try:
                cell.cell_contents  # noqa: B018 (an empty cell raises)
            except ValueError:
                continue
            yield name, cell


class Sources:
    """What a service provides, by type; `overrides` (a test's) take the place of what provides the same type."""

    def __init__(
        self,
        service: str,
        resources: Iterable[Source],
        provides: Iterable[Source],
        overrides: Iterable[Source] = (),
    ) -> None:
        self._service = service
        self.resources: dict[object, Source] = {}
        self.provides: dict[object, Source] = {}
        for source in resources:
            self._add(self.resources, source)
        for source in provides:
            self._add(self.provides, source)
        for source in overrides:
            place = self.resources if source.provides in self.resources else self.provides
            place[source.provides] = source

    def _add(self, place: dict[object, Source], source: Source) -> None:
        for known in (self.resources.get(source.provides), self.provides.get(source.provides)):
            if known is not None:
                raise UsageError(
                    f"{type_name(source.provides)} is provided twice in the service {self._service}: by "
                    f"{name_of(known.function)} and {name_of(source.function)}."
                )
        place[source.provides] = source

    def resource_order(self) -> list[Source]:
        """Give the resources so that each comes after those it depends on. A Transaction needs no provider."""
        order: list[Source] = []
        for source in self.resources.values():
            self._visit(
                source,
                self.resources,
                order,
                (),
                frozenset({Transaction}),
                "a resource, which lives as long as the process",
            )
        return order

    def taken(self, parameters: Iterable[Parameter]) -> frozenset[object]:
        """Give the types that a handler with these parameters takes, and what provides them, whatever it takes."""
        taken: set[object] = set()
        waiting = [parameter.type for parameter in parameters]
        while waiting:
            form = waiting.pop()
            if form not in taken:
                taken.add(form)
                source = self.provides.get(form)
                waiting += [] if source is None else [parameter.type for parameter in source.parameters]
        return frozenset(taken)

    def lenders(self, taken: Iterable[object]) -> list[Lender]:
        """Give those of the types taken whose provider lends a transaction of its own."""
        providers: list[object] = [self.provides[form].function for form in taken if form in self.provides]
        return [provider for provider in providers if isinstance(provider, Lender)]

    def provide_order(self, parameters: Iterable[Parameter], given: frozenset[object], owner: str) -> list[Source]:
        """Give what must be made for these parameters of a handler, each after what it depends on. `given`: types that
        need no provider. Raises UsageError for a parameter that nothing provides."""
        order: list[Source] = []
        known = given | self.resources.keys()
        for parameter in parameters:
            self._need(parameter, owner, self.provides, order, (), known)
        return order

    def _need(
        self,
        parameter: Parameter,
        owner: str,
        among: Mapping[object, Source],
        order: list[Source],
        path: tuple[Source, ...],
        known: frozenset[object],
        why: str = "",
    ) -> None:
        wanted = parameter.type
        if wanted in known:
            return
        source = among.get(wanted)
        if source is not None:
            self._visit(source, among, order, path, known, why)
        elif not parameter.optional:
            raise UsageError(self._unprovided(parameter, owner, why))

    def _visit(
        self,
        source: Source,
        among: Mapping[object, Source],
        order: list[Source],
        path: tuple[Source, ...],
        known: frozenset[object],
        why: str = "",
    ) -> None:
        if source in path:
            names = [type_name(one.provides) for one in (*path[path.index(source) :], source)]
            raise UsageError(f"These provide each other in a circle: {' → '.join(names)}.")
        if source in order:
            return
        for parameter in source.parameters:
            self._need(parameter, name_of(source.function), among, order, (*path, source), known, why)
        order.append(source)

    def _unprovided(self, parameter: Parameter, owner: str, why: str) -> str:
        wanted = type_name(parameter.type)
        text = f"Nothing provides the parameter {parameter.name}: {wanted} of {owner}"
        if why:
            text += f" ({why})"
        if parameter.type in self.provides:
            return f"{text}; {wanted} is provided per message. Move one of the two."
        near = [
            type_name(one)
            for one in (*self.resources, *self.provides)
            if isinstance(one, type) and isinstance(parameter.type, type) and issubclass(one, parameter.type)
        ]
        if near:
            return f"{text}. {listed(near)} is provided: annotate its provider `-> {wanted}`."
        return (
            f"{text}. Give Service({self._service!r}) a function that returns {wanted}, in `provides=` (made per "
            "message) or `resources=` (per process)."
        )
