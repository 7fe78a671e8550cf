"""What confirms orders. It needs nothing of Django.

With orders on PostgreSQL: `ringpost run orders.mail:mail --store $ORDERS_DB`.
On SQLite: `ringpost run orders.mail:mail --store sqlite:///messages.db --outbox $ORDERS_DB`, which relays as well.
"""

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
    tx.execute("INSERT INTO confirmed VALUES (:order)", {"order": confirmation.order})
