"""From the declarations of services to what runs: everything is checked here, before the first request."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

from msgspec import Struct

from ringpost.contract.errors import UsageError, listed
from ringpost.contract.vocabulary import Provider
from ringpost.service.admits import Admits, admits, slots_of
from ringpost.service.context import Context
from ringpost.service.handler import Handler
from ringpost.service.inject import Injector, Resources, itself
from ringpost.service.lender import Lender
from ringpost.service.pipeline import Pipeline
from ringpost.service.provide import Parameter, Sources, hints_of, name_of, parameters_of, source_of
from ringpost.service.service import Service, check_request, unimplemented
from ringpost.service.threads import Threads
from ringpost.service.transaction import Transaction
from ringpost.settings import Settings

_BLOCKING = "ringpost.blocking"


class Assembly(Struct, frozen=True):
    """The services of one process, checked: handlers by queue, and by service what they are provided with."""

    services: tuple[Service, ...]
    handlers: dict[str, Handler]
    parameters: dict[str, tuple[Parameter, ...]]  # by queue, beside the request
    sources: dict[str, Sources]
    transacting: set[str]  # queues whose handlers, or what they are provided with, take a Transaction
    lenders: dict[str, Lender]  # by queue, of handlers that take a session, or are provided with what does

    def thread_count(self) -> int:
        """Say how many `def` handlers may run at once."""
        return sum(handler.concurrency for handler in self.handlers.values() if not handler.is_async)

    def failure_queues(self) -> dict[str, str]:
        """Say by queue who hears of its dead messages. The death of a farewell is told to nobody."""
        queues: dict[str, str] = {}
        for queue, handler in self.handlers.items():
            listener = f"{handler.service}.on_failure"
            queues[queue] = listener if listener in self.handlers and handler.work != "failure" else ""
        return queues

    def admits(self, settings: Settings) -> Mapping[str, Admits]:
        """Say by queue how calls are let in."""
        return {
            queue: admits(handler, service, settings)
            for service in self.services
            for queue, handler in service.handlers.items()
        }

    def bind(
        self,
        pipeline: Pipeline,
        resources: Resources,
        threads: Threads,
        loop: asyncio.AbstractEventLoop,
        decided: Mapping[str, Admits],
    ) -> None:
        """Make the handlers known to the pipeline, each compiled to what is called."""
        for service in self.services:
            sources = self.sources[service.name]
            for queue, handler in service.handlers.items():
                slots = slots_of(handler, decided[queue])
                givens = _givens(sources.taken(self.parameters[queue]), loop)
                injector = Injector(sources, resources.of(sources), threads, givens)
                pipeline.bind(
                    handler,
                    slots,
                    injector.invoke(handler.function, handler.is_async, self.parameters[queue], slots),
                    middleware=service.middleware,
                    authenticate=service.authenticate if handler.work == "operation" else None,
                )


def assembled(services: Sequence[Service], overrides: Sequence[Provider] = ()) -> Assembly:
    """Check services that shall run together. Raises UsageError for the first thing that can't work."""
    if not services:
        raise UsageError("There is nothing to run: give at least one Service.")
    extra = [source_of(provider) for provider in overrides]
    assembly = Assembly(tuple(services), {}, {}, {}, set(), {})
    for service in services:
        if not isinstance(service, Service):
            raise UsageError(f"{service!r} isn't a Service.")
        if service.name in assembly.sources:
            raise UsageError(f"Two services are called {service.name!r}: give one of them a name, Service(…, name=…).")
        missing = unimplemented(service)
        if missing:
            raise UsageError(
                f"The service {service.name} has no handler for {listed(missing)}. Write one with "
                f"@{service.name}.implements(…); what isn't offered yet doesn't belong into its contract."
            )
        sources = Sources(service.name, service.resources, service.provides, extra)
        sources.resource_order()
        assembly.sources[service.name] = sources
        for queue, handler in service.handlers.items():
            _add(assembly, queue, handler, sources)
    return assembly


def _add(assembly: Assembly, queue: str, handler: Handler, sources: Sources) -> None:
    if queue in assembly.handlers:
        others = assembly.handlers[queue].service
        raise UsageError(f"{handler.name} is handled by two services of this process, {others} and {handler.service}.")
    hints = hints_of(handler.function) if handler.hints is None else handler.hints
    check_request(handler, hints)
    handler.request.prepare()
    handler.reply.prepare()
    parameters = parameters_of(handler.function, skip=1, hints=hints)
    _check_given(handler, parameters)
    taken = sources.taken(parameters)
    sources.provide_order(parameters, frozenset(filter(_is_given, taken)) | {Context}, name_of(handler.function))
    assembly.handlers[queue] = handler
    assembly.parameters[queue] = parameters
    if any(_is_given(form) and _name(form) == "Transaction" for form in taken):
        assembly.transacting.add(queue)
    lenders = sources.lenders(taken)
    if lenders:
        _check_lent(handler, [_name(one.provides) for one in lenders], queue in assembly.transacting)
        assembly.lenders[queue] = lenders[0]


def _check_lent(handler: Handler, sessions: Sequence[str], transacting: bool) -> None:
    """Refuse more than one transaction in a handling, and a thread that would have to await."""
    name = name_of(handler.function)
    both = [*sessions, *(["Transaction"] if transacting else [])]
    if len(both) > 1:
        raise UsageError(
            f"{name} takes {listed(both)}, itself or by what it is provided with: one handling has one transaction, so "
            "that everything commits together. Take one of them."
        )
    if not handler.is_async:
        raise UsageError(
            f"{name} is `def` and runs in a thread, where {sessions[0]} can't be awaited: make it `async def`."
        )


def _check_given(handler: Handler, parameters: Sequence[Parameter]) -> None:
    """Refuse what is of the wrong kind: one would be awaited in a thread, the other would block the loop."""
    for parameter in parameters:
        if not _is_given(parameter.type):
            continue
        name, blocks, what = name_of(handler.function), _is_blocking(parameter.type), _name(parameter.type)
        if handler.is_async and blocks:
            raise UsageError(f"{name} is `async def`: let it take ringpost.{what}, not ringpost.blocking.{what}.")
        if not handler.is_async and not blocks:
            raise UsageError(
                f"{name} is `def` and runs in a thread: let it take ringpost.blocking.{what}, or make it `async def`."
            )


_GIVEN: Mapping[type, Callable[[Any], object]] = {Context: itself, Transaction: Context._transaction}


def _is_given(form: object) -> bool:
    """Say whether a parameter of this type needs no provider."""
    return form in _GIVEN or _is_blocking(form)


def _is_blocking(form: object) -> bool:
    """Say whether it is what blocking has for one of these. Who annotates with it has loaded it; this room must not."""
    return isinstance(form, type) and form.__module__ == _BLOCKING and form.__name__ in map(_name, _GIVEN)


def _name(form: object) -> str:
    return form.__name__ if isinstance(form, type) else ""


def _givens(taken: frozenset[object], loop: asyncio.AbstractEventLoop) -> Mapping[object, Callable[[Any], object]]:
    """Give the types that need no provider, each with what makes it of the handling's context; the Context always."""
    givens: dict[object, Callable[[Any], object]] = {Context: itself}
    for form in taken:
        if form in _GIVEN:
            givens[form] = _GIVEN[cast(type, form)]
        elif _is_blocking(form):
            givens[form] = _blocking(form, loop)
    return givens


def _blocking(form: Any, loop: asyncio.AbstractEventLoop) -> Callable[[Any], object]:
    make = next(make for given, make in _GIVEN.items() if given.__name__ == form.__name__)
    return lambda ctx: form.onto_loop(make(ctx), loop)
