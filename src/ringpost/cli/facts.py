"""What is known of an operation or event from where a command stands: from the code that was given, and from the
store's notes. Nothing is decided here."""

from collections.abc import Mapping, Sequence

from msgspec import Struct

from ringpost.cli.reach import Reach
from ringpost.cli.stores import did_you_mean, instances
from ringpost.contract.contract import find_event, find_operation
from ringpost.contract.errors import UsageError
from ringpost.core import notes
from ringpost.core.handover import forward_queue
from ringpost.core.maintenance import Window
from ringpost.service.handler import Handler
from ringpost.service.register import described, described_event
from ringpost.service.service import Service
from ringpost.settings import Settings, origins
from ringpost.store.hostclock import boot_id, wall_ms
from ringpost.store.port import Depth, Facts


class Known(Struct, frozen=True, kw_only=True):
    """All that is known of a name. `declared` None: nobody here knows what the operation says of itself."""

    name: str
    settings: Settings
    origins: Mapping[str, str]
    given: tuple[str, ...]  # the services whose code was given
    handler: Handler | None = None  # of one of them
    service: Service | None = None  # that it belongs to
    declared: notes.Described | None = None
    declared_by: str = ""
    store: Facts | None = None
    no_store: str = ""
    noted: bool = False  # a service on this store has served it once
    boot_id: str = ""
    instances: Mapping[str, notes.Instance] = {}
    pauses: Mapping[str, notes.Pause] = {}  # by queue
    closed: Window | None = None  # its service is, now
    held: Mapping[str, notes.Override] = {}  # breakers of it that operators hold, by target; empty: at all of them
    subscriptions: Mapping[str, notes.Subscription] = {}  # of an event, by queue
    depths: Mapping[str, Depth] = {}

    @property
    def contract(self) -> str:
        return self.name.partition(".")[0]

    @property
    def is_forwarded(self) -> bool:
        """Whether a message for it waits in the store here to be forwarded: it has an address, and isn't served here by
        the code that was given."""
        return self.store is not None and self.handler is None and self.contract in self.settings.addresses

    @property
    def queue(self) -> str:
        """The queue in which a message for it is left."""
        return forward_queue(self.contract) if self.is_forwarded else self.name

    @property
    def is_event(self) -> bool:
        return self.declared is not None and self.declared.kind == "event"


async def known(name: str, services: Sequence[Service], settings: Settings, *, strict: bool) -> Known:
    """Gather what is known of a name. Raises UsageError where nobody has ever heard of it, StoreError with `strict`
    where the store can't be opened."""
    service = next((service for service in services if name in service.handlers), None)
    handler = None if service is None else service.handlers[name]
    declared, declared_by = _declared_in_code(name, handler)
    async with Reach(settings, strict=strict) as reach:
        store = await reach.store()
        all_notes = {} if store is None else {note.name: note.value for note in await store.notes()}
        depths = {} if store is None else {depth.queue: depth for depth in await store.depths()}
        found = Known(
            name=name,
            settings=settings,
            origins=origins(),
            given=tuple(service.name for service in services),
            handler=handler,
            service=service,
            store=None if store is None else store.facts,
            no_store=reach.no_store,
            noted=notes.operation(name) in all_notes,
            boot_id=boot_id(),
            instances={} if store is None else await instances(store),
            pauses=_pauses(all_notes),
            closed=_closed(declared or _noted(name, all_notes), all_notes),
            held=_held(name, all_notes),
            depths=depths,
            subscriptions=_subscriptions(name, all_notes),
            declared=declared or _noted(name, all_notes),
            declared_by=declared_by or "the store's note",
        )
    if found.declared is None and found.contract not in settings.addresses:
        names = [one.removeprefix(notes.OPERATION) for one in all_notes if one.startswith(notes.OPERATION)]
        hint = did_you_mean(name, names) if found.store is not None else f"{found.no_store.rstrip('.')}."
        raise UsageError(
            f"nobody has ever heard of {name} here. {hint} Or give the code that declares it: "
            f"`ringpost explain MODULE:SERVICE {name}`."
        )
    return found


def _declared_in_code(name: str, handler: Handler | None) -> tuple[notes.Described | None, str]:
    operation = find_operation(name)
    if operation is not None:
        return described(operation, "" if handler is None else handler.service), "its contract"
    event = find_event(name)
    return (None, "") if event is None else (described_event(event, ""), "its contract")


def _noted(name: str, all_notes: Mapping[str, bytes]) -> notes.Described | None:
    value = all_notes.get(notes.operation(name))
    return None if value is None else notes.decode_described(value)


def _pauses(all_notes: Mapping[str, bytes]) -> dict[str, notes.Pause]:
    prefix = notes.pause("")
    return {
        note.removeprefix(prefix): notes.decode_pause(value)
        for note, value in all_notes.items()
        if note.startswith(prefix)
    }


def _closed(declared: notes.Described | None, all_notes: Mapping[str, bytes]) -> Window | None:
    value = None if declared is None else all_notes.get(notes.maintenance(declared.service))
    window = None if value is None else notes.decode_maintenance(value)
    return window if window is not None and window.closed(wall_ms()) else None


def _held(name: str, all_notes: Mapping[str, bytes]) -> dict[str, notes.Override]:
    """Give the breakers that are held; one that is held for the whole contract gives way to the operation's own."""
    held: dict[str, notes.Override] = {}
    for whose in (name.partition(".")[0], name):
        for note, value in all_notes.items():
            of, _, target = note.removeprefix(notes.OVERRIDE).partition("@")
            if note.startswith(notes.OVERRIDE) and of == whose:
                held[target] = notes.decode_override(value)
    return held


def _subscriptions(name: str, all_notes: Mapping[str, bytes]) -> dict[str, notes.Subscription]:
    prefix = notes.subscription(name, "")
    return {
        note.removeprefix(prefix): notes.decode_subscription(value)
        for note, value in all_notes.items()
        if note.startswith(prefix)
    }
