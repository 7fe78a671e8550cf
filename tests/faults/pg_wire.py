"""What is asked of a PostgreSQL server, read from the bytes on their way through the fault proxy.

A driver names a statement when it prepares it, and later says only the name; so whoever wants to lose the answer to one
has to have listened from the first connection on.
"""

import re
from collections import defaultdict

from tcp_proxy import Asked, Link, TcpProxy

_PARSE = re.compile(rb"P.{4}(__asyncpg_stmt_[0-9a-f]+__)\0([^\0]*)\0", re.DOTALL)
_BIND = re.compile(rb"B.{4}\0(__asyncpg_stmt_[0-9a-f]+__)\0", re.DOTALL)
_QUERY = re.compile(rb"Q.{4}([^\0]*)\0", re.DOTALL)


class Statements:
    """Listens to a proxy: what runs on each of its connections, and in which transaction."""

    def __init__(self, proxy: TcpProxy) -> None:
        self._texts: dict[bytes, bytes] = {}  # of prepared statements; their names are never given twice in a process
        self._open: defaultdict[Link, list[bytes]] = defaultdict(list)  # what has run since BEGIN
        proxy.overhear = self._heard

    def _heard(self, link: Link, data: bytes) -> None:
        self._texts.update(_PARSE.findall(data))
        transaction = self._open[link]
        for text in self._run(data):
            if text.startswith(b"BEGIN"):
                transaction.clear()
            elif not self._within(link):
                continue
            transaction.append(text)

    def _within(self, link: Link) -> bool:
        """Say whether a transaction is open."""
        transaction = self._open[link]
        return bool(transaction) and not transaction[-1].endswith((b"COMMIT", b"ROLLBACK"))

    def _run(self, data: bytes) -> list[bytes]:
        """Give the statements that a piece of the requests runs."""
        return _QUERY.findall(data) + [self._texts.get(name, b"") for name in _BIND.findall(data)]

    def runs(self, part: str) -> Asked:
        """Say of a request whether it runs a statement with this in its text, and by itself: it commits."""
        return lambda link, data: not self._within(link) and any(part.encode() in text for text in self._run(data))

    def commits(self, part: str) -> Asked:
        """Say of a request whether it is the COMMIT of a transaction that ran such a statement."""

        def asked(link: Link, data: bytes) -> bool:
            commits = any(text.endswith(b"COMMIT") for text in self._run(data))
            return commits and any(part.encode() in text for text in self._open[link])

        return asked
