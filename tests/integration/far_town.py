"""Two services, each on its own store and in its own process, that end themselves at a point that is named.

As a script: `far_town.py ROLE`, with the roles `shop` (it forwards) and `billing` (it is forwarded to). POINT and
POINT_HOW are those of `points.py`, TWIN breaks a promise. What is charged has the kind as its last word.
"""

import asyncio
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from points import after, before, end, say, until_told, wanted

from ringpost import Context, Contract, Operation, Outcome, Problem, Service, run
from ringpost.client.posting import new_id
from ringpost.contract.errors import TransportError
from ringpost.core import handover, ids, intake
from ringpost.core.handover import Receipt, encode_receipt
from ringpost.core.message import Answer, Delivery, Message, Settlement, State
from ringpost.forward import poster, puller
from ringpost.forward.poster import Poster
from ringpost.forward.puller import Puller
from ringpost.forward.receiver import Receiver
from ringpost.http.tickets import Tickets
from ringpost.service.acceptance import Acceptance
from ringpost.service.worker import Worker
from ringpost.store.port import Conclude
from ringpost.store.sqlite.store import SqliteStore
from ringpost.wire.outcomes import NOTHING

KINDS = ["quick", "slow", "refused", "unwanted"]


class CardRefused(Problem, status=402):
    card: str


class Billing(Contract):
    charge = Operation(str, str, raises=[CardRefused])
    note = Operation(str)
    charged = Operation(str)  # the effect: staged, so there is one for each message that was handled


class Shop(Contract):
    paid = Operation(Outcome[str, str])


billing, shop = Service(Billing), Service(Shop)


@billing.implements(Billing.charge)
async def charge(card: str, ctx: Context) -> str:
    match card.split()[-1]:
        case "slow" | "unwanted":
            await until_told(card)
        case "refused":
            raise CardRefused(card=card)
    await ctx.send(Billing.charged, card)
    return f"{card} is charged"


@billing.implements(Billing.note)
async def note(text: str, ctx: Context) -> None:
    await ctx.send(Billing.charged, text)


@billing.implements(Billing.charged)
async def charged(card: str) -> None: ...


@shop.implements(Shop.paid)
async def paid(outcome: Outcome[str, str]) -> None: ...


# --- points


def committed(state: State, then: Callable[[], None] = end) -> None:
    """Do something once a settlement to a state is committed, by default end."""
    inner = Worker._book

    def booking(self: Worker, turn: Any, claimed: Any) -> None:
        if any(settlement.to is state for settlement in turn.settlements):
            then()
        inner(self, turn, claimed)

    Worker._book = booking  # type: ignore[method-assign]


def _cancelling() -> None:
    """End once the other store was told that somebody wants something to be cancelled."""
    inner = Receiver.ask

    async def ask(self: Receiver, method: str, *arguments: Any) -> Any:
        response = await inner(self, method, *arguments)
        if method == "DELETE":
            end()
        return response

    Receiver.ask = ask  # type: ignore[method-assign]


def _concludes(store: SqliteStore, orders: Any) -> bool:
    return any(isinstance(order, Conclude) for order in orders)


def _concluded(changed: Any) -> bool:
    return any(one.result == "done" and one.state.terminal for one in changed)


Points = dict[str, Callable[[], None]]
SENDING: Points = {
    "after the store is learnt": lambda: after(Receiver, "learn"),
    "before the post": lambda: before(Poster, "_post"),
    "after the answer": lambda: after(Poster, "_post"),
    "after the hand-over": lambda: committed(State.FORWARDED),
    "after the settlement": lambda: committed(State.SUCCEEDED),
    "before outcomes are asked for": lambda: before(Puller, "_posted"),
    "after a cancel is passed on": _cancelling,
    "after outcomes came": lambda: after(Puller, "_posted", bool),
    "before outcomes are committed": lambda: before(SqliteStore, "change", _concludes),
    "after outcomes are committed": lambda: after(SqliteStore, "change", _concluded),
}
RECEIVING: Points = {
    "before the request is written": lambda: before(Acceptance, "accept"),
    "after the write, before the answer": lambda: after(Acceptance, "_written"),
    "after the outcome, before the answer": lambda: after(Tickets, "ended", lambda record: record is not None),
    "before outcomes are told": lambda: before(Tickets, "wait_for_any"),
    "after outcomes are found": lambda: after(Tickets, "wait_for_any", lambda response: response.body != NOTHING),
}


# --- twins


def _early() -> None:
    """Hand over before anybody there has answered."""
    handed = asyncio.Event()
    posting: set[asyncio.Task[None]] = set()

    async def later(self: Poster, receiver: Receiver, delivery: Delivery) -> None:
        await handed.wait()
        await self._post(receiver, delivery, poster._Reached())

    async def handled(self: Poster, receiver: Receiver, delivery: Delivery) -> Settlement:
        while not receiver.store_id:
            with suppress(TransportError):  # nobody is there yet
                await receiver.learn()
        posting.add(asyncio.ensure_future(later(self, receiver, delivery)))
        receipt = Receipt(ids.text(delivery.id), receiver.store_id)
        return Settlement(delivery, State.FORWARDED, Answer(202, encode_receipt(receipt)))

    Poster._handled = handled  # type: ignore[method-assign]
    committed(State.FORWARDED, handed.set)


def _fresh() -> None:
    """Forward under a new id each time."""
    poster.wire_id = lambda receiver, id: new_id()


def _heedless() -> None:
    """Know no message again."""
    inner = Acceptance._message

    def message(self: Acceptance, *arguments: Any) -> Message:
        made = inner(self, *arguments)
        made.id, made.dedup, made.digest = new_id(), None, None
        return made

    Acceptance._message = message  # type: ignore[method-assign]


def _dropping() -> None:
    """Fetch outcomes and keep none."""

    def conclusion(record: Any, receipt: Any, told: Any, *_: Any) -> None:
        if told.state == "succeeded":
            say(dropped=told.state)

    puller._conclusion = conclusion  # type: ignore[assignment]


TWINS = {"early": _early, "fresh": _fresh, "heedless": _heedless, "dropping": _dropping}


def _hurry() -> None:
    """Cut the pauses short that spare a real network, so that the test doesn't wait for them."""
    handover.UNHURRIED_S_FIRST, handover.UNHURRIED_S_MAX = 0.05, 0.2
    intake.PAUSE_S_FIRST, intake.PAUSE_S_MAX = 0.05, 0.2
    puller._LOOK_S, puller._PAUSE_S_FIRST, puller._PAUSE_S_MAX = 0.2, 0.05, 0.2
    inner = Poster._post

    async def post(self: Poster, *arguments: Any) -> Any:
        response = await inner(self, *arguments)
        say(posted=response.status)
        return response

    Poster._post = post  # type: ignore[method-assign]


if __name__ == "__main__":
    _hurry()
    if point := wanted():
        ({**SENDING, **RECEIVING})[point]()
    if twin := os.environ.get("TWIN"):
        TWINS[twin]()
    run({"shop": shop, "billing": billing}[sys.argv[1]])
