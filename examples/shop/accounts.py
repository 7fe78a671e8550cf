"""Accounts: answers at once, and lets the letters follow. `ringpost run accounts:accounts`"""

import os
import sqlite3
from collections.abc import Iterator

from contracts import Accounts, EmailTaken, Mail, NewUser, User

from ringpost import Context, Service


def users() -> Iterator[sqlite3.Connection]:
    """The accounts' own database; one connection a process. It is not the store's file."""
    db = sqlite3.connect(os.environ.get("SHOP_ACCOUNTS", "accounts.db"), timeout=10, isolation_level=None)
    db.execute("CREATE TABLE IF NOT EXISTS users (email TEXT PRIMARY KEY, name TEXT, asked_by TEXT)")
    yield db
    db.close()


accounts = Service(Accounts, resources=[users])


@accounts.implements(Accounts.register)
async def register(new: NewUser, db: sqlite3.Connection, ctx: Context) -> User:
    """Register once. A repeated attempt of the same message finds its own row and goes on where it broke off."""
    db.execute("INSERT OR IGNORE INTO users VALUES (?, ?, ?)", (new.email, new.name, ctx.message_id))
    number, asked_by = db.execute("SELECT rowid, asked_by FROM users WHERE email = ?", (new.email,)).fetchone()
    if asked_by != ctx.message_id:
        raise EmailTaken(new.email)
    user = User(id=str(number), email=new.email, name=new.name)
    await ctx.send(Mail.welcome, user)
    await ctx.publish(Accounts.registered, user)
    return user
