"""Where a call and a message go from here: every place that is looked at, in the order in which it is, and what is
found there. The same places, in the same order, as in `client/router.py` and `client/client.py`."""

from collections.abc import Iterable

from msgspec import Struct

from ringpost.cli.facts import Known
from ringpost.cli.output import by, instant
from ringpost.cli.stores import process_of
from ringpost.core import notes


class Place(Struct, frozen=True):
    """A place that is looked at. `found`: it takes what goes out, unless an earlier one does."""

    where: str
    found: bool
    said: str
    goes_to: tuple[str, ...] = ()


def of_call(known: Known) -> list[Place]:
    """Give the places at which a call looks for somebody who answers."""
    return [_handler(known), _address(known), _instances(known)]


def of_send(known: Known) -> list[Place]:
    """Give the places at which a message is left, and then who takes it."""
    if known.store is None:
        return [_no_store(known), _door(known)]
    queue = f"the queue {known.queue} of the store"
    if known.is_forwarded:
        address = _address(known)
        left = Place(
            "store", True, f"{known.store.url} ({known.store.level})", (f"{queue}, then {address.goes_to[0]}",)
        )
        return [left, address, _forwarders(known), *_paused(known), *_closed(known)]
    left = Place("store", True, f"{known.store.url} ({known.store.level})", (queue,))
    return [left, _consumers(known, known.queue), *_paused(known), *_closed(known)]


def of_publish(known: Known) -> list[Place]:
    """Give the places at which an event is left: a delivery for each subscription."""
    if known.store is None:
        return [_no_store(known), _door(known)]
    told = tuple(queue for queue, one in known.subscriptions.items() if not one.suspended)
    count = len(known.subscriptions)
    said = f"{count} subscriptions" if count != 1 else "1 subscription"
    store = Place("store", True, f"{known.store.url} ({known.store.level}); {said}", told)
    return [store, *(_subscriber(known, queue, one) for queue, one in known.subscriptions.items())]


def goes_to(places: Iterable[Place]) -> tuple[str, ...]:
    """Give where it ends up: nowhere, where no place took it."""
    return next((place.goes_to for place in places if place.found and place.goes_to), ())


def _handler(known: Known) -> Place:
    where = "this process"
    if known.handler is not None:
        service = known.handler.service
        return Place(where, True, f"the service {service} has a handler for it", (f"the handler in {service}",))
    if known.given:
        return Place(where, False, f"no handler for it in {', '.join(known.given)}")
    return Place(where, False, "no code was given; MODULE:SERVICE before the name looks into it")


def _address(known: Known) -> Place:
    url = known.settings.addresses.get(known.contract)
    if url is None:
        return Place("addresses", False, f"nothing for {known.contract!r}")
    origin = known.origins.get(f"addresses.{known.contract}", "set")
    return Place("addresses", True, f"{known.contract} → {url} ({origin})", (url,))


def _instances(known: Known) -> Place:
    where = "live instances"
    if known.store is None:
        return Place(where, False, f"no store to know of one: {known.no_store}")
    serving = {id: one for id, one in known.instances.items() if known.name in one.operations and one.url}
    reached = {id: one for id, one in serving.items() if not _is_elsewhere(known, one)}
    if not serving:
        return Place(where, False, f"none serves it, of {len(known.instances)} noted in the store")
    said = ", ".join(_shown(known, one) for one in serving.values())
    ordered = sorted(reached.values(), key=lambda one: one.stopping)
    return Place(where, bool(reached), said, tuple(one.url for one in ordered))


def _is_elsewhere(known: Known, instance: notes.Instance) -> bool:
    """Say whether an address is another host's loopback, which isn't ours."""
    host = instance.url.partition("//")[2]
    return instance.boot_id != known.boot_id and host.startswith(("127.", "localhost", "[::1]"))


def _shown(known: Known, instance: notes.Instance) -> str:
    said = f"{instance.url} ({process_of(instance)})"
    if _is_elsewhere(known, instance):
        return f"{said}: another host's loopback, not reached from here"
    return f"{said}: stopping, asked last" if instance.stopping else said


def _no_store(known: Known) -> Place:
    return Place("store", False, known.no_store)


def _door(known: Known) -> Place:
    """Without a store a message goes to the door of its contract, which writes it."""
    address = _address(known)
    return Place(address.where, address.found, address.said, tuple(f"the door at {url}" for url in address.goes_to))


def _consumers(known: Known, queue: str) -> Place:
    never = "" if known.noted or known.is_event else ", and nobody on this store ever served it"
    return _takers(known, queue, "taken by", f"nobody now{never}: it waits until its service runs")


def _forwarders(known: Known) -> Place:
    nobody = "nobody now: it waits until a service on this store runs with this address, or a Client is opened"
    return _takers(known, known.queue, "forwarded by", nobody)


def _takers(known: Known, queue: str, where: str, nobody: str) -> Place:
    """Say who takes from a queue, and how much waits in it."""
    waiting = known.depths.get(queue)
    waits = 0 if waiting is None else waiting.ready + waiting.scheduled + waiting.waiting
    so = f"; {waits:,} wait" if waits else ""
    workers = [one for one in known.instances.values() if queue in one.queues]
    if not workers:
        return Place(where, False, f"{nobody}{so}")
    taken = ", ".join(process_of(one) for one in workers)
    return Place(where, True, f"{taken}{so}")


def _paused(known: Known) -> list[Place]:
    paused = known.pauses.get(known.queue)
    if paused is None:
        return []
    return [Place("paused", False, f"{by(paused.who, paused.reason)}; it waits until the queue is resumed")]


def _closed(known: Known) -> list[Place]:
    if known.closed is None:
        return []
    until = instant(known.closed.until_ms)
    return [Place("closed", False, f"until {until}, {by(known.closed.who, known.closed.reason)}; it waits for that")]


def _subscriber(known: Known, queue: str, subscription: notes.Subscription) -> Place:
    if subscription.suspended:
        return Place(queue, False, "suspended: it gets nothing")
    return Place(queue, (taken := _consumers(known, queue)).found, taken.said)
