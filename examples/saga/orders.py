"""Orders: the saga itself, four handlers and one column. `ringpost run orders:orders`

Each handler hears how a step went, moves the order, and sends the next step, all in one commit. Nothing waits in
memory, so nothing is forgotten when a process ends.
"""

from typing import Final

from database import Sql, Tables, sql
from trade import Charge, Declined, Order, Orders, Parcel, Payments, Shipping, Undeliverable

from ringpost import Context, Outcome, Service, Transaction

TABLE = "CREATE TABLE IF NOT EXISTS sale (id TEXT PRIMARY KEY, address TEXT NOT NULL, state TEXT NOT NULL)"

MOVES: Final = {
    ("pending", "paid"),
    ("pending", "refunding"),  # nobody knows whether the money was taken
    ("pending", "cancelled"),
    ("paid", "shipped"),
    ("paid", "refunding"),
    ("refunding", "cancelled"),
}


async def tables(tx: Transaction) -> Tables:
    """Make the table, once."""
    await tx.execute(TABLE)
    return Tables()


orders = Service(Orders, resources=[tables], provides=[sql])


async def moved(sql: Sql, order: str, before: str, after: str) -> bool:
    """Move an order; False where it has gone on already, as after a dead letter's replay. Then nothing is to do."""
    assert (before, after) in MOVES
    change = "UPDATE sale SET state = ? WHERE id = ? AND state = ? RETURNING id"
    return bool(await sql.execute(change, [after, order, before]))


@orders.implements(Orders.place)
async def place(order: Order, ctx: Context, sql: Sql) -> str:
    """Write the order down and ask for the money."""
    new = "INSERT INTO sale VALUES (?, ?, 'pending') ON CONFLICT DO NOTHING RETURNING id"
    if await sql.execute(new, [order.id, order.address]):
        await ctx.send(Payments.charge, Charge(order.id, order.card, order.cents), reply_to=Orders.paid)
    return await state(order.id, sql)


@orders.implements(Orders.state)
async def state(order: str, sql: Sql) -> str:
    """Say where an order stands."""
    rows = await sql.execute("SELECT state FROM sale WHERE id = ?", [order])
    return str(rows[0][0]) if rows else "unknown"


@orders.implements(Orders.paid)
async def paid(outcome: Outcome[Charge, None], ctx: Context, sql: Sql) -> None:
    """Ship what is paid for. What was declined ends here; what is unclear is compensated as if it had been paid."""
    order = outcome.request.order
    match outcome.error:
        case None:
            if await moved(sql, order, "pending", "paid"):
                [(address,)] = await sql.execute("SELECT address FROM sale WHERE id = ?", [order])
                await ctx.send(Shipping.ship, Parcel(order, address), reply_to=Orders.shipped)
        case Declined():
            await moved(sql, order, "pending", "cancelled")
        case _:  # expired, given up, cancelled by somebody
            if await moved(sql, order, "pending", "refunding"):
                await ctx.send(Payments.refund, order, reply_to=Orders.refunded)


@orders.implements(Orders.shipped)
async def shipped(outcome: Outcome[Parcel, None], ctx: Context, sql: Sql) -> None:
    """Be done, or pay back. What didn't say no by itself is recalled too, as somebody may replay it."""
    order = outcome.request.order
    if outcome.error is None:
        await moved(sql, order, "paid", "shipped")
    elif await moved(sql, order, "paid", "refunding"):
        if not isinstance(outcome.error, Undeliverable):
            await ctx.send(Shipping.recall, order)
        await ctx.send(Payments.refund, order, reply_to=Orders.refunded)


@orders.implements(Orders.refunded)
async def refunded(outcome: Outcome[str, None], ctx: Context, sql: Sql) -> None:
    """End what is paid back. A refund that was given up leaves the order visibly `refunding`: its replay goes on."""
    if outcome.error is None:
        await moved(sql, outcome.request, "refunding", "cancelled")
    else:
        ctx.log.error("order %s is not paid back: %s", outcome.request, outcome.error)
