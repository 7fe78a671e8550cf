"""What confirms orders: `ringpost run orders.mail:mail --store $ORDERS_DB`. It needs nothing of Django."""

from dataclasses import dataclass

from ringpost import Contract, Operation, Service, Transaction, blocking


@dataclass
class Confirmation:
    order: int


class Mail(Contract):
    confirm = Operation(Confirmation)


class Confirmed:
    """The table of what was confirmed."""


async def confirmed(tx: Transaction) -> Confirmed:
    await tx.execute("CREATE TABLE IF NOT EXISTS confirmed (order_id bigint)")
    return Confirmed()


mail = Service(Mail, resources=[confirmed])


@mail.implements(Mail.confirm)
def confirm(confirmation: Confirmation, tx: blocking.Transaction) -> None:
    tx.execute("INSERT INTO confirmed VALUES ($1)", (confirmation.order,))
