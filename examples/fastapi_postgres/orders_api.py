"""An endpoint that writes an order and sends in one commit; the service that confirms it, in one commit as well.

export ORDERS_DB=postgresql://shop@localhost/shop
ringpost run orders_api:mail --store $ORDERS_DB &
uvicorn --factory orders_api:app
"""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime

from fastapi import FastAPI, HTTPException
from sqlalchemy import DateTime, String, text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

import ringpost.sqlalchemy
from ringpost import Client, Contract, Operation, Service

STOCK = ("pen", "tea")


class Base(DeclarativeBase):
    pass


class Order(Base):
    __tablename__ = "orders"
    id: Mapped[int] = mapped_column(primary_key=True)
    item: Mapped[str] = mapped_column(String(80))
    confirmed: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))


@dataclass
class Confirmation:
    order: int


class Mail(Contract):
    confirm = Operation(Confirmation)


async def database() -> AsyncIterator[AsyncEngine]:
    """Open the database that ORDERS_DB names, and make its tables."""
    engine = create_async_engine(os.environ["ORDERS_DB"].replace("postgresql://", "postgresql+psycopg://", 1))
    async with engine.begin() as connection:
        # One after the other: the endpoint and the service may start together.
        await connection.execute(text("SELECT pg_advisory_xact_lock(1)"))
        await connection.run_sync(Base.metadata.create_all)
    yield engine
    await engine.dispose()


mail = Service(Mail, resources=[database], provides=[ringpost.sqlalchemy.session()])


@mail.implements(Mail.confirm)
async def confirm(confirmation: Confirmation, session: AsyncSession) -> None:
    order = await session.get_one(Order, confirmation.order)
    order.confirmed = datetime.now(UTC)  # written and committed with the end of this message


def app() -> FastAPI:
    """Make the application on the database that ORDERS_DB names."""
    client = Client(store=os.environ["ORDERS_DB"])

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with asynccontextmanager(database)() as app.state.engine, client:
            yield

    made = FastAPI(lifespan=lifespan)

    @made.post("/orders")
    async def place(item: str) -> dict[str, str]:
        async with AsyncSession(made.state.engine) as session, session.begin():
            order = Order(item=item)
            session.add(order)
            await session.flush()  # gives the order its number
            receipt = await client.outbox(session).send(Mail.confirm, Confirmation(order.id))
            if item not in STOCK:
                raise HTTPException(409, f"we have no {item}")  # takes back the order and its message
        return {"message": receipt.id}

    return made
