"""Orders to replay or drop dead letters: given in the steps of a plan, no further than to a canary that fails."""

import asyncio
import sys
from collections.abc import Sequence
from typing import Literal

import click

from ringpost.cli.dead.plan import Plan, steps
from ringpost.cli.output import plain, print_json
from ringpost.cli.stores import operator
from ringpost.client.store_tickets import StoreTickets
from ringpost.core import ids
from ringpost.core.message import Record
from ringpost.store.port import Changed, Drop, Replay, Store

What = Literal["replay", "drop"]
_DONE = {"replay": "replayed", "drop": "dropped"}


class Orders:
    """Orders of one kind to one store. `done` are the ids of those that took effect, `missed` says of others why."""

    def __init__(self, store: Store, what: What) -> None:
        self._store = store
        self._what = what
        self.done: list[str] = []
        self.missed: list[str] = []

    async def give(self, records: Sequence[Record], why: str) -> None:
        """Order it for all of these, in their order. `why`: for the audit."""
        if not records:
            return
        who = operator()
        orders = [
            Replay(record.id, record.generation, who, why) if self._what == "replay" else Drop(record.id, who)
            for record in records
        ]
        for record, changed in zip(records, await self._store.change(orders), strict=True):
            if changed.result == "done":
                self.done.append(ids.text(record.id))
            else:
                self.missed.append(f"{ids.text(record.id)} was not {_DONE[self._what]}: {_why(changed)}.")

    async def follow(self, plan: Plan) -> None:
        """Go through a plan step by step, and no further than to a canary that doesn't end well."""
        step = 0
        async for batch in steps(self._store, plan):
            await self.give(batch, plan.words())
            if plan.waits(step):
                bad = await not_well(self._store, batch, plan.canary_wait_s)
                if bad:
                    self.missed.append(f"the rest was left as it is: {bad}.")
                    return
            elif plan.rate is not None and len(batch) == plan.size(step):
                await asyncio.sleep(len(batch) / plan.rate)
            step += 1
            if sys.stderr.isatty():
                click.echo(f"\r{_DONE[self._what]} {len(self.done):,}", nl=False, err=True)
        if step and sys.stderr.isatty():
            click.echo(err=True)

    def tell(self, *, as_json: bool) -> int:
        """Print what came of it, and give the exit code."""
        done = _DONE[self._what]
        if as_json:
            print_json({done: self.done, "missed": self.missed})
        else:
            click.echo(f"{done} {len(self.done):,} dead letter{'' if len(self.done) == 1 else 's'}")
            for text in self.missed:
                click.echo(f"ringpost: {plain(text)}", err=True)
        return 1 if self.missed else 0


async def not_well(store: Store, batch: Sequence[Record], wait_s: float) -> str:
    """Wait for what was replayed; say which didn't end well, or not in time. Empty: all did."""
    tickets = StoreTickets(store)
    until_s = asyncio.get_running_loop().time() + wait_s
    for record in batch:
        id = ids.text(record.id)
        answer = await tickets.answer(id, until_s)
        (now,) = await store.read([record.id])
        state = "gone" if now is None else now.state.name.lower()
        if answer is None:
            return f"{id} is still {state} after {wait_s:g} s; is its service running, is it tried again"
        if state != "succeeded":
            return f"{id} is {state}{' again' if state == 'dead' else ''}"
    return ""


def _why(changed: Changed) -> str:
    if changed.result == "conflict":
        return "somebody else has replayed it meanwhile"
    if changed.state is not None:
        return f"it is {changed.state.name.lower()} now"
    return "it is gone"
