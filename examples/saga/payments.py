"""Payments: takes money for an order once, and gives it back once. `ringpost run payments:payments`

A refund that comes before its charge, or without one, leaves a row that refuses the charge: compensating is always
possible, and safe to repeat.
"""

from database import Sql, Tables, sql
from trade import Charge, Declined, Payments

from ringpost import Service, Transaction

TABLE = "CREATE TABLE IF NOT EXISTS payment (ordered TEXT PRIMARY KEY, cents INTEGER NOT NULL, state TEXT NOT NULL)"


async def tables(tx: Transaction) -> Tables:
    """Make the table, once."""
    await tx.execute(TABLE)
    return Tables()


payments = Service(Payments, resources=[tables], provides=[sql])


@payments.implements(Payments.charge)
async def charge(charge: Charge, sql: Sql) -> Declined | None:
    """Take the money. Where a bank is asked, it gets the order's id as its idempotency key."""
    if charge.card == "empty":
        return Declined(charge.order)
    await sql.execute("INSERT INTO payment VALUES (?, ?, 'taken') ON CONFLICT DO NOTHING", [charge.order, charge.cents])
    [(state,)] = await sql.execute("SELECT state FROM payment WHERE ordered = ?", [charge.order])
    return None if state == "taken" else Declined(charge.order)


@payments.implements(Payments.refund)
async def refund(order: str, sql: Sql) -> None:
    """Give the money back, or see to it that it can't be taken any more."""
    await sql.execute(
        "INSERT INTO payment VALUES (?, 0, 'returned') ON CONFLICT DO UPDATE SET state = 'returned'", [order]
    )
