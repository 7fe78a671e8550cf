"""Shipping: a parcel for each order, at most one. `ringpost run shipping:shipping`

A recall that comes before its parcel, or without one, leaves a row that refuses the parcel.
"""

from database import Sql, Tables, sql
from trade import Parcel, Shipping, Undeliverable

from ringpost import Service, Transaction

TABLE = "CREATE TABLE IF NOT EXISTS parcel (ordered TEXT PRIMARY KEY, address TEXT NOT NULL, state TEXT NOT NULL)"


async def tables(tx: Transaction) -> Tables:
    """Make the table, once."""
    await tx.execute(TABLE)
    return Tables()


shipping = Service(Shipping, resources=[tables], provides=[sql])


@shipping.implements(Shipping.ship)
async def ship(parcel: Parcel, sql: Sql) -> Undeliverable | None:
    """Pack what was ordered."""
    if parcel.address == "moon":
        return Undeliverable(parcel.order)
    await sql.execute(
        "INSERT INTO parcel VALUES (?, ?, 'packed') ON CONFLICT DO NOTHING", [parcel.order, parcel.address]
    )
    [(state,)] = await sql.execute("SELECT state FROM parcel WHERE ordered = ?", [parcel.order])
    return None if state == "packed" else Undeliverable(parcel.order)


@shipping.implements(Shipping.recall)
async def recall(order: str, sql: Sql) -> None:
    """Unpack it, or see to it that it won't be packed any more."""
    await sql.execute(
        "INSERT INTO parcel VALUES (?, '', 'recalled') ON CONFLICT DO UPDATE SET state = 'recalled'", [order]
    )
