"""The store behind an address, as a forwarder knows it: which one it is is learnt first, and said with every request.

A message that a store may have taken must not go to another one: it could take effect twice. So the stores that were
ever found behind an address are kept in a note, and what may be in one of them waits for that one.
"""

import asyncio
from collections.abc import Sequence

import msgspec
from msgspec import Struct

from ringpost.client.target import Target
from ringpost.client.world import Carrier
from ringpost.contract.errors import Unavailable
from ringpost.core import notes
from ringpost.core.handover import forward_queue
from ringpost.store.port import Note, Store
from ringpost.wire.http import Response
from ringpost.wire.sent import STORE

LEARN_S = 5.0
Headers = Sequence[tuple[str, str]]


class _Health(Struct):
    """What a door says of itself, as far as it matters here."""

    store: str = ""


class Receiver:
    """One contract's address. `store_id` is empty until it has been learnt; `failures`: outages in a row."""

    def __init__(self, contract: str, target: Target, transport: Carrier, store: Store) -> None:
        self.contract = contract
        self.queue = forward_queue(contract)
        self.url = f"{target.origin.url}{target.prefix}"
        self.store_id = ""
        self.stores: tuple[str, ...] = ()  # that were ever found there, this one last
        self.failures = 0
        self._target = target
        self._transport = transport
        self._store = store
        self._learning = asyncio.Lock()

    @property
    def is_ours(self) -> bool:
        """Whether the address leads to the store that the messages are in."""
        return self.store_id == self._store.facts.store_id

    async def learn(self) -> None:
        """Find out which store is there. Raises TransportError where nobody tells, StoreError."""
        async with self._learning:
            if not self.store_id:
                found = await self._ask()
                self.stores = await self._noted(found)
                self.store_id = found

    def forget(self) -> None:
        """Learn anew before the next request: another store has answered."""
        self.store_id = ""

    async def ask(self, method: str, path: str, headers: Headers, body: bytes, timeout_s: float) -> Response:
        """Ask the store that has been learnt; another one refuses. Raises TransportError."""
        deadline_s = asyncio.get_running_loop().time() + timeout_s
        return await self._transport.request(
            self._target.origin,
            method,
            f"{self._target.prefix}{path}",
            ((STORE, self.store_id), *headers),
            body,
            deadline_s=deadline_s,
        )

    async def _ask(self) -> str:
        deadline_s = asyncio.get_running_loop().time() + LEARN_S
        path = f"{self._target.prefix}/healthz"
        response = await self._transport.request(self._target.origin, "GET", path, deadline_s=deadline_s)
        try:
            health = _health.decode(response.body) if response.status == 200 else _Health()
        except msgspec.MsgspecError:
            health = _Health()
        if not health.store:
            raise Unavailable(
                f"{self.url} doesn't take messages for {self.contract}: its /healthz answered {response.status} and "
                "names no store. Is it a door of Ringpost, on a store?",
                processed="no",
            )
        return health.store

    async def _noted(self, found: str) -> tuple[str, ...]:
        """Write down that this store is there now."""
        name = notes.receiver(self.contract)
        while True:
            kept = next((note for note in await self._store.notes(name) if note.name == name), None)
            known = () if kept is None else notes.decode_receiver(kept.value).stores
            if known and known[-1] == found:
                return known
            stores = (*(one for one in known if one != found), found)[-notes.STORES_MAX :]
            note = Note(name, notes.encode(notes.Receiver(stores)))
            if await self._store.note_put(note, expect=0 if kept is None else kept.version):
                return stores


_health = msgspec.json.Decoder(_Health)
