"""The verbs without await, for threads and scripts: a portal onto the asynchronous client, computed from it.

What type checkers see is `__init__.pyi`, which `tools/blocking_stub.py` writes from the same asynchronous classes.
"""

import os
from typing import Any

from ringpost.blocking.computed import Blocking, computed
from ringpost.blocking.portal import InPlace, Portal, ThreadPortal
from ringpost.client import client as _client
from ringpost.client import outbox as _outbox
from ringpost.client import ticket as _ticket
from ringpost.client import verbs as _verbs
from ringpost.client.deadline import deadline
from ringpost.client.ticket import Receipt
from ringpost.service import context as _context
from ringpost.service import transaction as _transaction

__all__ = ["Caller", "Client", "Context", "Outbox", "Receipt", "Sender", "Ticket", "Transaction", "deadline"]

_portal = ThreadPortal()

Ticket = computed(_ticket.Ticket, Blocking, Receipt)
Sender = computed(_verbs.Sender)
Caller = computed(_verbs.Caller, Sender)
Context = computed(_context.Context, Caller)
Transaction = computed(_transaction.Transaction)


class Client(computed(_client.Client, Caller)):  # type: ignore[misc]  # what checkers see is the stub
    __doc__ = _client.Client.__doc__

    def __init__(self, **given: Any) -> None:
        self._given = given
        self._portal = _portal
        self._pid = os.getpid()
        self._real = _client.Client(**given)

    @classmethod
    def onto(cls, asynchronous: object, portal: Portal) -> "Client":
        made = cls.__new__(cls)
        made._portal = portal
        made._pid = 0
        made._real = asynchronous
        return made

    @property
    def _object(self) -> Any:
        if self._pid and self._pid != os.getpid():
            # After a fork, connections and store are the parent's: open them anew. What was inherited is left alone.
            self._pid = os.getpid()
            self._inherited = self._real
            self._real = _client.Client(**self._given)
        return self._real


Blocking._classes[_client.Client] = Client


class Outbox(computed(_outbox.Outbox, Sender)):  # type: ignore[misc]  # what checkers see is the stub
    __doc__ = _outbox.Outbox.__doc__
    _object: Any
    _portal: Portal

    @classmethod
    def onto(cls, asynchronous: Any, portal: Portal) -> "Outbox":
        """Only its client is in the portal's loop: a session stays in the thread that it belongs to."""
        made = cls.__new__(cls)
        made._object = asynchronous._in_thread(portal.run)
        made._portal = InPlace()
        return made


Blocking._classes[_outbox.Outbox] = Outbox
