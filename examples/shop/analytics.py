"""Analytics: listens to what happens, and writes long reports. `ringpost run analytics:analytics`"""

import asyncio
import os
import sqlite3
from collections.abc import Iterator

from contracts import Accounts, Analytics, Report, ReportOrder, User

from ringpost import Context, Outcome, Service

PAGE_S = 0.25


def numbers() -> Iterator[sqlite3.Connection]:
    """The analysts' own database; counting by user makes a repeated event harmless."""
    db = sqlite3.connect(os.environ.get("SHOP_ANALYTICS", "analytics.db"), timeout=10, isolation_level=None)
    db.execute("CREATE TABLE IF NOT EXISTS seen (user TEXT PRIMARY KEY)")
    db.execute("CREATE TABLE IF NOT EXISTS reports (title TEXT PRIMARY KEY, registrations INTEGER)")
    yield db
    db.close()


analytics = Service(Analytics, name="analytics", resources=[numbers])


@analytics.on(Accounts.registered)
async def count(user: User, db: sqlite3.Connection) -> None:
    db.execute("INSERT OR IGNORE INTO seen VALUES (?)", (user.id,))


@analytics.implements(Analytics.report)
async def report(order: ReportOrder, db: sqlite3.Connection, ctx: Context) -> Report:
    for page in range(order.pages):
        await ctx.progress(page / order.pages, f"page {page + 1} of {order.pages}")
        await asyncio.sleep(PAGE_S)
    (registrations,) = db.execute("SELECT count(*) FROM seen").fetchone()
    return Report(title=order.title, registrations=registrations)


@analytics.implements(Analytics.report_done)
async def report_done(outcome: Outcome[ReportOrder, Report], db: sqlite3.Connection) -> None:
    """Take the outcome when it comes; nobody waited for it."""
    done = outcome.result()
    db.execute("INSERT OR REPLACE INTO reports VALUES (?, ?)", (outcome.request.title, done.registrations))
