"""Whom the command line talks to: doors that are live, and the store behind them, without any Python of the services.

A door is looked for as calls are routed: the address of the contract in `addresses`, then the live instances noted in
the store, then the `http` address of the configuration. A door that is on another store than ours isn't asked.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Final

from ringpost.cli.stores import did_you_mean, instances, opened
from ringpost.client.instances import Instances
from ringpost.client.target import Target, target_of
from ringpost.client.transport import Transport
from ringpost.contract.errors import StoreError, Unavailable, UsageError
from ringpost.core import notes
from ringpost.http.ports import parse_address
from ringpost.settings import Settings
from ringpost.store.hostclock import boot_id
from ringpost.store.port import Store
from ringpost.wire.http import Response
from ringpost.wire.problem import PROCESSED

Headers = tuple[tuple[str, str], ...]

EVENTS: Final = "/events"
_PROBLEM: Final = "application/problem+json"
_ANY_HOST: Final = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}
_NOT_HERE: Final = frozenset({404, 405, 501})
_WRONG_ADDRESS: Final = 421


class Nobody(Unavailable):
    """Say that no door took a request; certainly nothing was processed. `asked`: a door was there and refused."""

    def __init__(self, message: str, *, asked: bool) -> None:
        super().__init__(message, processed="no")
        self.asked = asked


class Reach:
    """Doors and store for one command: `async with Reach(settings) as reach`. Each is opened at first use.

    With `strict` a store that can't be opened is an error, because the user named it.
    """

    def __init__(self, settings: Settings, *, strict: bool = False) -> None:
        self.settings = settings
        self._strict = strict
        self._stack = AsyncExitStack()
        self._store: Store | None = None
        self._looked = False
        self._transport: Transport | None = None
        self.no_store = ""  # why there is none

    async def __aenter__(self) -> "Reach":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    async def store(self) -> Store | None:
        """Give the store, None where there is none or it can't be opened; `no_store` says why."""
        if not self._looked:
            self._looked = True
            try:
                self._store = await self._stack.enter_async_context(opened(self.settings))
            except StoreError as error:
                if self._strict:
                    raise
                self.no_store = str(error)
        return self._store

    async def needed_store(self) -> Store:
        """Give the store. Raises StoreError where there is none."""
        store = await self.store()
        if store is None:
            raise StoreError(self.no_store)
        return store

    def transport(self) -> Transport:
        """Give the transport of this command."""
        if self._transport is None:
            self._transport = Transport(self.settings)
            self._stack.push_async_callback(self._transport.close)
        return self._transport

    async def post(
        self, name: str, path: str, headers: Headers, body: bytes, timeout_s: float
    ) -> tuple[Response, Target]:
        """Post to the first door that has the path. `name`: the operation or event, in full.

        Raises Nobody where none took it, Unavailable and DeadlineExceeded where one may have.
        """
        deadline_s = asyncio.get_running_loop().time() + timeout_s
        tried: list[str] = []
        asked = False
        async for target, on_store in self._serving(name, event=path == EVENTS):
            try:
                response = await self.transport().request(
                    target.origin,
                    "POST",
                    target.prefix + path,
                    (*headers, *_meant(target, on_store)),
                    body,
                    deadline_s=deadline_s,
                )
            except Unavailable as error:
                if error.processed != "no":
                    raise
                tried.append(str(error).rstrip("."))
                continue
            refusal = _refusal(response)
            if not refusal:
                return response, target
            asked = asked or response.status == 404
            tried.append(f"{target.origin.url} {refusal}")
        raise await self._nobody(name, tried, asked=asked)

    async def doors(self) -> AsyncGenerator[Target, None]:
        """Give every door that is known, each once: a ticket doesn't tell whose it is."""
        seen: set[str] = set()
        targets = [target_of(url) for url in self.settings.addresses.values()]
        for target in [*targets, *await self._noted(), *configured(self.settings)]:
            if target.origin.url + target.prefix not in seen:
                seen.add(target.origin.url + target.prefix)
                yield target

    async def _serving(self, name: str, *, event: bool) -> AsyncIterator[tuple[Target, str]]:
        """Give the doors for a name in their order, each with the id of the store that it must be on."""
        contract = name.partition(".")[0]
        if contract in self.settings.addresses:
            yield target_of(self.settings.addresses[contract]), ""
            return
        seen: set[str] = set()
        store = await self.store()
        if store is not None:
            # Notes tell who serves an operation. An event is taken by every door whose services know its contract:
            # which do, only they can say.
            noted = await self._noted() if event else await Instances(store, boot_id()).serving(name)
            for target in noted:
                if target.origin.url not in seen:
                    seen.add(target.origin.url)
                    yield target, ""
        for target in configured(self.settings):
            if target.origin.url not in seen:
                yield target, "" if store is None else store.facts.store_id

    async def _noted(self) -> list[Target]:
        store = await self.store()
        if store is None:
            return []
        here = boot_id()
        found: list[Target] = []
        for id, instance in (await instances(store)).items():
            # Another host's loopback isn't ours.
            if instance.url and (instance.boot_id == here or "//127." not in instance.url):
                found.append(target_of(instance.url, id))
        return found

    async def _nobody(self, name: str, tried: list[str], *, asked: bool) -> Unavailable | UsageError:
        contract = name.partition(".")[0]
        store = await self.store()
        known = [] if store is None else [note.name for note in await store.notes(notes.OPERATION)]
        if known and contract not in self.settings.addresses and notes.operation(name) not in known:
            names = [one.removeprefix(notes.OPERATION) for one in known]
            return UsageError(f"nobody here has ever served {name}. {did_you_mean(name, names)}")
        return Nobody(
            f"nobody serves {name} now ({'; '.join(tried) or 'no door is known'}). Start its service with "
            f"`ringpost run MODULE:SERVICE`, or set RINGPOST_ADDRESSES={contract}=https://…",
            asked=asked,
        )


def configured(settings: Settings) -> list[Target]:
    if settings.http is None:
        return []
    host, port = parse_address(settings.http)
    host = _ANY_HOST.get(host, host)
    scheme = "https" if settings.tls_cert else "http"
    return [target_of(f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}")]


def _meant(target: Target, store_id: str) -> Headers:
    """Name who is meant: a port may have changed hands."""
    meant: Headers = (("ringpost-instance", target.instance),) if target.instance else ()
    return (*meant, ("ringpost-store", store_id)) if store_id else meant


def _refusal(response: Response) -> str:
    """Say why a door certainly didn't take what was posted; empty where it did, or may have."""
    is_problem = response.content_type.startswith(_PROBLEM)
    if response.status == _WRONG_ADDRESS:
        return "is on another store"
    if response.status not in _NOT_HERE:
        return ""
    if not is_problem:
        return "is no door of Ringpost"
    # A handler may answer 404 too; then it did process it.
    return "does not serve it" if dict(response.headers).get(PROCESSED) == "no" else ""
