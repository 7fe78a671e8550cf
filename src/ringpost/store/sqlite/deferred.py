"""Deferred SQL: what handlers left to be run in the commit that settles them, many messages' in one turn.

All of it is taken to succeed: the same statement of many messages is run in one go, and nothing is paid for the chance
that one fails. If one does, the turn is rolled back and taken again with a savepoint around each message's, so that it
fails alone. A statement that ends the whole transaction (ON CONFLICT ROLLBACK) is found out likewise, and left out.
"""

import time
from collections.abc import Mapping, Sequence
from itertools import groupby
from operator import itemgetter

import apsw

from ringpost.contract.errors import UsageError
from ringpost.core.message import Statement
from ringpost.store.sqlite.db import Db
from ringpost.store.sqlite.disk import FATAL
from ringpost.store.sqlite.guard import Guard

_STORES = (*FATAL, apsw.FullError)  # what is not the statement's own failure

Failures = dict[int, Exception | None]
"""By place: what the statements of one message raised, or None where there was no time for them."""


class DeferredFailed(Exception):
    """A deferred statement failed: take the turn again, one message's after the other's."""


class Overthrown(Exception):
    """A statement has ended the whole transaction: take the turn again, without those of this place."""

    def __init__(self, place: int, error: Exception) -> None:
        super().__init__(place)
        self.place = place
        self.error = error


def run_all(guard: Guard, parts: Sequence[Sequence[Statement]], limit_s: float) -> None:
    """Run the statements of many messages, each message's in their order. Raises DeferredFailed if one fails."""
    ends_s = time.monotonic() + limit_s
    try:
        for nth in range(max(map(len, parts), default=0)):
            row = [part[nth] for part in parts if len(part) > nth]
            for sql, same in groupby(row, itemgetter(0)):
                parameters = [parameters for _, parameters in same]
                guard.run_many(sql, parameters, ends_s)
    except _STORES:
        raise
    except Exception as error:
        raise DeferredFailed from error
    if guard.unresolved():
        raise DeferredFailed


def run_each(
    db: Db, guard: Guard, parts: Sequence[Sequence[Statement]], limit_s: float, spoilt: Mapping[int, Exception]
) -> Failures:
    """Run the statements of one message after the other; gives those that failed, of which nothing stays. `spoilt`:
    those that are known to end the transaction. Raises Overthrown for another such."""
    failures: Failures = {}
    ends_s = time.monotonic() + limit_s
    for place, part in enumerate(parts):
        if not part:
            continue
        if place in spoilt:
            failures[place] = spoilt[place]
        elif time.monotonic() > ends_s:
            failures[place] = None
        else:
            error = _run(db, guard, part, limit_s)
            if error is not None:
                failures[place] = error
            if not db.in_transaction:
                raise Overthrown(place, error or UsageError("A deferred statement ended the transaction of others."))
    return failures


def _run(db: Db, guard: Guard, part: Sequence[Statement], limit_s: float) -> Exception | None:
    ends_s = time.monotonic() + limit_s
    db.execute("SAVEPOINT ringpost_deferred")
    failure: Exception | None = None
    try:
        for statement in part:
            guard.run(statement, ends_s)
        guard.check_resolved()
    except _STORES:
        raise
    except Exception as error:  # noqa: BLE001 (a border: whatever the user's statement raises is its message's failure)
        failure = error
    if db.in_transaction:
        if failure is not None:
            db.execute("ROLLBACK TO ringpost_deferred")
        db.execute("RELEASE ringpost_deferred")
    return failure
