"""An endpoint that writes an order and sends its confirmation in one commit; the service that confirms it.

export ORDERS_DB=postgresql://shop@localhost/shop
ringpost init --store $ORDERS_DB
uvicorn --factory orders_api:app &
ringpost run orders_api:mail --store $ORDERS_DB
"""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from fastapi import FastAPI, HTTPException
from sqlalchemy import String
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from ringpost import Client, Contract, Operation, Service, Transaction

STOCK = ("pen", "tea")


class Base(DeclarativeBase):
    pass


class Order(Base):
    __tablename__ = "orders"
    id: Mapped[int] = mapped_column(primary_key=True)
    item: Mapped[str] = mapped_column(String(80))


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
async def confirm(confirmation: Confirmation, tx: Transaction) -> None:
    tx.defer("INSERT INTO confirmed VALUES ($1)", (confirmation.order,))


def app() -> FastAPI:
    """Make the application on the database that ORDERS_DB names."""
    url = os.environ["ORDERS_DB"]
    engine = create_async_engine(url.replace("postgresql://", "postgresql+psycopg://", 1))
    client = Client(store=url)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with engine.begin() as connection:
            await connection.run_sync(Base.metadata.create_all)
        async with client:
            yield
        await engine.dispose()

    made = FastAPI(lifespan=lifespan)

    @made.post("/orders")
    async def place(item: str) -> dict[str, str]:
        async with AsyncSession(engine) as session, session.begin():
            order = Order(item=item)
            session.add(order)
            await session.flush()  # gives the order its number
            receipt = await client.outbox(session).send(Mail.confirm, Confirmation(order.id))
            if item not in STOCK:
                raise HTTPException(409, f"we have no {item}")  # takes back the order and its message
        return {"message": receipt.id}

    return made
