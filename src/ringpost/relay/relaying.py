"""Relaying in a process: what `outbox` in its settings asks for, as a task that starts and stops with it."""

import asyncio

from ringpost.contract.errors import UsageError
from ringpost.relay.port import Table, table_for
from ringpost.relay.relay import Relay
from ringpost.settings import Settings
from ringpost.store.port import Store


class Relaying:
    """Relay from the outbox of the settings, if they name one. Raises UsageError where they can't be followed."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._table: Table | None = None
        self._task: asyncio.Task[None] | None = None
        if settings.outbox is None:
            return
        if settings.store is None:
            raise UsageError(
                "an outbox is relayed to the store, and this process has none: set `store` in ringpost.toml or "
                "RINGPOST_STORE, as in sqlite:///ringpost.db"
            )
        self._table = table_for(settings.outbox, settings.store)

    @property
    def shown(self) -> str:
        """The URL of the table without its password; empty where there is none."""
        return "" if self._table is None else self._table.shown

    def start(self, store: Store) -> None:
        """Begin to relay to an open store."""
        if self._table is not None:
            relay = Relay(self._table, store, lease_s=self._settings.lease_s)
            self._task = asyncio.ensure_future(relay.run())

    async def stop(self) -> None:
        """Relay no more: what is under way is offered again by whoever comes next. Never raises."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait((task,))
        elif self._table is not None:
            await self._table.close()
