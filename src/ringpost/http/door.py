"""The door: one function of a request, whoever reads the bytes. It finds what a path means and says it over HTTP.

What is behind it (handlers, the store) it knows by `Hosting`. Every path is in one table made at the start; every error
is a problem of RFC 9457.
"""

import logging
from collections.abc import Awaitable, Callable, Mapping
from math import inf
from typing import Any, Final, Literal, Protocol

from msgspec import Struct

from ringpost.client.posting import Origin, event_of
from ringpost.contract.errors import RingpostError
from ringpost.contract.operation import Event, Operation
from ringpost.contract.vocabulary import SendOptions
from ringpost.core import ids
from ringpost.core.call import Accepted, Call, Entrance, Local
from ringpost.core.deadline import ticket_by_s
from ringpost.core.maintenance import Window
from ringpost.core.message import Answer, Message, Priority
from ringpost.http import asked
from ringpost.http.answers import CLIENTS_FAULTS, failure, json, not_allowed, refusal, unix_ms, utc
from ringpost.http.framing import Refused
from ringpost.http.tickets import Tickets
from ringpost.service.reservation import refused
from ringpost.settings import Settings
from ringpost.store.port import Store
from ringpost.wire import cloudevents, sent
from ringpost.wire import headers as read
from ringpost.wire.headers import BadHeader
from ringpost.wire.http import Request, Response
from ringpost.wire.problem import response_of
from ringpost.wire.ticket import result_of

_VARY: Final = ("Vary", "Prefer")
EVENTS: Final = "/events"
_TICKETS: Final = "/tickets/"
_NORMAL: Final = Priority.NORMAL  # a member is looked up slowly

_log = logging.getLogger("ringpost.http")


class Health(Protocol):
    """How a process is: whether new requests shall come here, and if not, why; which services are closed."""

    @property
    def ready(self) -> bool: ...
    @property
    def reasons(self) -> tuple[str, ...]: ...
    @property
    def closed(self) -> Mapping[str, Window]: ...


class Hosting(Local, Protocol):
    """What the door needs of the host behind it."""

    @property
    def store(self) -> Store | None: ...
    @property
    def instance(self) -> str: ...
    @property
    def operations(self) -> Mapping[str, Operation[Any, Any]]: ...
    @property
    def events(self) -> Mapping[str, Event[Any]]: ...
    def health(self) -> Health: ...
    def entrance(self, operation: str) -> Entrance: ...
    def turned_away(self, operation: str) -> Answer: ...


class _Route(Struct, frozen=True):
    """What a path means: who answers, and which methods are allowed."""

    answer: Callable[[Request], Awaitable[Response]]
    methods: tuple[str, ...]


class _Place(Struct, frozen=True):
    """An operation as the door serves it."""

    name: str
    timeout_s: float
    priority: Priority


class Door:
    """Answer requests for one host. `advertise` of the settings is the public URL in Locations, else the request's."""

    def __init__(self, host: Hosting, settings: Settings, *, now_ms: Callable[[], int] = unix_ms) -> None:
        self.closing = False  # True: nothing new is begun
        self.owns_tasks = True  # every request has a task of its own, in which the handler may run
        self._host = host
        self._settings = settings
        self._public = settings.advertise.rstrip("/") if settings.advertise else ""
        self._now_ms = now_ms
        self._tickets = Tickets(host, self._public, now_ms)
        self._events = dict(host.events)
        self._longest_s = settings.call_timeout_max_s
        self._places = {
            f"/{operation.contract_name}/{operation.name}": self._place(operation)
            for operation in host.operations.values()
        }
        reading = ("GET", "HEAD")
        self._entrances: dict[str, Entrance] = {}
        self._routes: dict[str, _Route] = {
            EVENTS: _Route(self._event, ("POST",)),
            "/healthz": _Route(self._healthz, reading),
            "/readyz": _Route(self._readyz, reading),
            "/tickets:wait": _Route(self._tickets.wait_for_any, ("POST",)),
        }

    def turn_away(self, request: Request, crowded: bool = False) -> Response | None:
        """Refuse a call at once whose operation has neither a slot nor room to wait: no task is made for it and its
        body isn't read. Who would take a ticket isn't refused, as its request can wait as a message. `crowded`: it came
        by a connection of those that are left for who asks how this process is."""
        if crowded:
            if request.path in self._routes and request.path != EVENTS:
                return None
            response = refusal(Refused(503, "overloaded", "All connections of this process are in use."))
            response.close = True
            return response
        entrance = self._entrances.get(request.path) or self._entrance(request.path)
        if entrance is None or entrance.let_in(_NORMAL):
            return None
        place, headers = self._places[request.path], request.headers
        priority = place.priority
        if "ringpost-priority" in headers:
            try:
                priority = read.priority(headers["ringpost-priority"])
            except BadHeader:
                return None
        if (priority < _NORMAL and entrance.let_in(priority)) or "respond-async" in headers.get("prefer", ""):
            return None
        return response_of(self._host.turned_away(place.name))

    def _entrance(self, path: str) -> Entrance | None:
        place = self._places.get(path)
        if place is None or self.closing:
            return None
        entrance = self._entrances[path] = self._host.entrance(place.name)
        return entrance

    async def __call__(self, request: Request) -> Response:
        """Answer a request. Never raises but for cancellation: the client has gone away."""
        try:
            place = self._places.get(request.path)
            if place is not None and request.method == "POST":
                headers = request.headers
                asked.check_json(headers)
                if "ringpost-instance" in headers or "ringpost-store" in headers:
                    self._check_address(headers)
                if self.closing:
                    raise Refused(503, "unavailable", "This process is stopping.")
                call = asked.call_of(request, place.name, place.timeout_s, self._longest_s, place.priority)
                call.owned = self.owns_tasks
                if "prefer" not in headers:
                    return response_of(await self._host.call(call))
                return await self._preferred(request, call)
            return await self._elsewhere(request)
        except Refused as no:
            return refusal(no)
        except RingpostError as error:
            if not isinstance(error, CLIENTS_FAULTS):
                _log.exception("%s %s could not be answered", request.method, request.path)
            return failure(error)
        except Exception as error:  # noqa: BLE001 (the border: a declared key is a user's function, too)
            _log.error("%s %s could not be answered", request.method, request.path, exc_info=error)
            return failure(error)

    def _place(self, operation: Operation[Any, Any]) -> _Place:
        timeout_s = min(operation.timeout_s or self._settings.call_timeout_s, self._settings.call_timeout_max_s)
        return _Place(operation.full_name, timeout_s, read.priority(operation.priority or "normal"))

    async def _elsewhere(self, request: Request) -> Response:
        path, headers = request.path, request.headers
        if "ringpost-store" in headers or "ringpost-instance" in headers:
            self._check_address(headers)
        route = self._routes.get(path)
        if route is None:
            if path.startswith(_TICKETS):
                return await self._tickets(request)
            if path in self._places:
                return not_allowed(request, ("POST",))
            raise Refused(404, "not_found", "There is nothing at this path: operations are at /contract/operation.")
        if request.method not in route.methods:
            return not_allowed(request, route.methods)
        return await route.answer(request)

    # Operations.

    async def _preferred(self, request: Request, call: Call) -> Response:
        prefer = read.prefer(request.headers["prefer"])
        wait_s = prefer.wait_s
        if not prefer.respond_async:
            if wait_s is None:
                return response_of(await self._host.call(call))
            call.deadline_s = min(call.deadline_s, request.arrived_s + wait_s)
            applied = (("Preference-Applied", f"wait={wait_s:g}"), _VARY)
            return response_of(await self._host.call(call), applied)
        if call.after is not None:
            raise read.BadHeader(
                "Ringpost-After",
                request.headers["ringpost-after"],
                "is for calls; a message is handled when its turn is",
            )
        if self._host.store is None:
            raise Refused(503, "unavailable", "This process has no store: it can answer, but not later.")
        call.sent = sent.read(request.headers)
        accepted = await self._host.accept(call)
        if isinstance(accepted, Answer):
            return response_of(accepted, (_VARY,))
        until_s = ticket_by_s(request.arrived_s, call.deadline_s) if "request-timeout" in request.headers else inf
        return await self._later(request, accepted, wait_s, until_s)

    async def _later(self, request: Request, accepted: Accepted, wait_s: float | None, until_s: float) -> Response:
        applied = "respond-async"
        if wait_s:
            wait_s = min(wait_s, self._settings.call_timeout_max_s)
            applied += f", wait={wait_s:g}"
            record = await self._tickets.ended(accepted.id, min(request.arrived_s + wait_s, until_s))
            if record is not None:
                about = (("Preference-Applied", applied), _VARY, *sent.state_headers(record))
                return response_of(result_of(record), about)
        return await self._tickets.accepted(request, accepted, (("Preference-Applied", applied), _VARY))

    def _check_address(self, headers: Mapping[str, str]) -> None:
        """Refuse what was meant for somebody else: a port may have changed hands."""
        instance, store_id = headers.get("ringpost-instance"), headers.get("ringpost-store")
        if instance is not None and instance != self._host.instance:
            raise Refused(421, "wrong_instance", "The instance that was meant isn't behind this address any more.")
        if store_id is not None:
            store = self._host.store
            if store is None or store.facts.store_id != store_id:
                raise Refused(421, "wrong_store", "This door is on another store than the one that was meant.")

    # Events.

    async def _event(self, request: Request) -> Response:
        headers = request.headers
        if not headers.get("content-type", "").lower().startswith("application/cloudevents"):
            asked.check_json(headers)
            headers = {**headers, "content-type": "application/json"}
        incoming = cloudevents.binary(headers)
        event = self._events.get(incoming.type)
        if event is None:
            raise Refused(404, "not_found", f"No event {incoming.type!r} is known here.")
        store = self._host.store
        if store is None or self.closing:
            raise Refused(503, "unavailable", "This process has no store to keep events in.")
        message = self._message_of(event, incoming, request)
        (put,) = await store.put((message,))
        if put.refused:
            return response_of(refused(put, event.full_name))
        receipt = {
            "id": ids.text(put.id),
            "level": store.facts.level,
            "store": store.facts.store_id,
            "duplicate": put.duplicate,
            "receivers": put.receivers,
        }
        return json(202, receipt)

    def _message_of(self, event: Event[Any], incoming: cloudevents.CloudEvent, request: Request) -> Message:
        origin = Origin(
            sender=incoming.source,
            causation_id=incoming.causation_id,
            correlation_id=incoming.correlation_id,
            trace=incoming.trace,
            tracestate=incoming.tracestate,
        )
        options: SendOptions = {}
        id: bytes | None = incoming.message_id
        if "idempotency-key" in request.headers:  # then the key says what a repeat is
            options["idempotency_key"] = read.idempotency_key(request.headers["idempotency-key"])
            id = None
        if incoming.ordering_key is not None:
            options["ordering_key"] = incoming.ordering_key
        if incoming.expires_ms is not None:
            options["ttl"] = max(0.001, (incoming.expires_ms - self._now_ms()) / 1000)
        data = event.data.decode(request.body)
        return event_of(event, data, options, settings=self._settings, origin=origin, id=id)

    # How this process is.

    async def _healthz(self, request: Request) -> Response:
        store = self._host.store
        of_store = {} if store is None else {"store": store.facts.store_id}
        return json(200, {"status": "ok", **of_store}, (("Cache-Control", "no-store"),))

    async def _readyz(self, request: Request) -> Response:
        health = self._host.health()
        status: Literal["ready", "not ready"] = "ready" if health.ready else "not ready"
        body: dict[str, Any] = {"status": status, "reasons": list(health.reasons)}
        if health.closed:  # it answers all the same, so requests shall go on coming here
            body["maintenance"] = [
                {"service": name, "until": utc(window.until_ms), "reason": window.reason}
                for name, window in health.closed.items()
            ]
        return json(200 if health.ready else 503, body, (("Cache-Control", "no-store"),))
