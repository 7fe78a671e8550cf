"""What `ringpost doctor` finds at outbox tables: how many messages wait there, for how long, and who relays them."""

from ringpost.cli.surroundings import Finding, fail, ok, warn
from ringpost.contract.errors import UsageError
from ringpost.core import notes
from ringpost.relay.port import TableAway, Waiting, table_for
from ringpost.relay.telling import LATE_S, said
from ringpost.settings import Settings
from ringpost.store.hostclock import wall_ms
from ringpost.store.port import Store

_WHAT = "outbox"


async def outboxes(settings: Settings, store: Store | None) -> list[Finding]:
    """Look at the table that is configured, and at those that somebody relays from to this store."""
    relays = {} if store is None else await _relays(store)
    findings = [] if settings.outbox is None else [await _configured(settings.outbox, settings.store, relays)]
    return findings + [_finding(shown, _noted(relay), relay) for shown, relay in relays.items()]


async def _relays(store: Store) -> dict[str, notes.Relay]:
    found = await store.notes(notes.RELAY)
    return {note.name.removeprefix(notes.RELAY): notes.decode_relay(note.value) for note in found}


async def _configured(url: str, store_url: str | None, relays: dict[str, notes.Relay]) -> Finding:
    """Look into the table itself; takes who relays it out of the others. Who can't reach it from here may know of it
    from who relays it elsewhere."""
    try:
        table = table_for(url, store_url)
    except UsageError as error:
        return fail(_WHAT, str(error).rstrip("."), "set `outbox` to the business database")
    relay = relays.pop(table.shown, None)
    try:
        waiting = await table.waiting()
    except TableAway as error:
        if relay is None:
            return fail(
                _WHAT, f"{table.shown}: {error}", "mend `outbox`, or what it says; nothing is relayed until then"
            )
        waiting = _noted(relay)
    except UsageError as error:
        return fail(_WHAT, str(error).rstrip("."), "set `outbox` to the business database")
    finally:
        await table.close()
    return _finding(table.shown, waiting, relay)


def _noted(relay: notes.Relay) -> Waiting:
    return Waiting(relay.waiting, relay.oldest_ms, relay.aside)


def _finding(shown: str, waiting: Waiting, relay: notes.Relay | None) -> Finding:
    now_ms = wall_ms()
    told = f"{shown}: {said(waiting, now_ms)}"
    if relay is None:
        to_do = "start `ringpost relay`, or `ringpost run` with `outbox` set"
        return warn(_WHAT, f"{told}; nobody relays it", to_do)
    told += f"; relayed by process {relay.pid} on {relay.host}"
    if relay.trouble:
        return warn(_WHAT, f"{told}, which can't: {relay.trouble}", "mend that; it is tried again by itself")
    if waiting.aside:
        return warn(_WHAT, told, "`ringpost outbox show` says why, the documentation how they are offered again")
    if waiting.oldest_ms is not None and now_ms - waiting.oldest_ms > LATE_S * 1000:
        return warn(_WHAT, told, "look for full queues with `ringpost queues`, and at the relay's log")
    return ok(_WHAT, told)
