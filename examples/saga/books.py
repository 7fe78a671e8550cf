"""Whether orders, payments and parcels tell one story: what the demo and the tests hold the saga to."""

from collections.abc import Callable, Iterable
from typing import Any, Final

Query = Callable[[str], Iterable[Any]]

ENDED: Final = ("shipped", "cancelled")
_STORY: Final = """
    SELECT sale.id, sale.state, ifnull(payment.state, 'none'), ifnull(parcel.state, 'none')
    FROM sale LEFT JOIN payment ON payment.ordered = sale.id LEFT JOIN parcel ON parcel.ordered = sale.id
    ORDER BY sale.id"""


def open_orders(query: Query) -> int:
    """Count the orders that are still on their way."""
    return sum(state not in ENDED for _, state, _, _ in query(_STORY))


def contradictions(query: Query) -> list[str]:
    """List the ended orders whose money or parcel says otherwise."""
    found: list[str] = []
    for order, state, money, parcel in query(_STORY):
        wanted = {"shipped": (True, True), "cancelled": (False, False)}
        there = (money == "taken", parcel == "packed")
        if there != wanted.get(state, there):
            found.append(f"{order} is {state}: money {money}, parcel {parcel}")
    return found
