"""Carry requests to other processes over kept-alive HTTP/1.1: a bounded pool of connections per origin.

Nothing is ever sent twice here: what failed before it was written says `processed="no"`, anything later `"maybe"`, and
whoever knows whether repeating is safe decides. No redirects, no proxies, no cookies, no decompression.
"""

import asyncio
import socket
import ssl
import struct
from collections import deque
from collections.abc import Sequence

from ringpost.client.connection import Connection, Exchange, Limits, Phase, Received
from ringpost.client.request import whole
from ringpost.client.sweep import Sweep
from ringpost.client.target import Origin
from ringpost.client.world import CONNECTIONS_PER_ORIGIN
from ringpost.contract.errors import DeadlineExceeded, Unavailable
from ringpost.settings import Settings
from ringpost.wire.http import Response

CONNECT_S = 3.0
ORIGINS_MAX = 1024
_TIDY_S = 1.0
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER: on, for no time, which closes by a reset


class _Waiter:
    """Someone in line for a connection. What is handed over is a connection, or None: a place to open one."""

    def __init__(self, loop: asyncio.AbstractEventLoop, deadline_s: float, name: str) -> None:
        self.deadline_s = deadline_s
        self.turn: asyncio.Future[Connection | None] = loop.create_future()
        self._name = name

    def expire(self) -> None:
        if not self.turn.done():
            self.turn.set_exception(
                DeadlineExceeded(f"All connections to {self._name} were busy until the deadline.", processed="no")
            )


class _Pool:
    """The connections to one origin: the last used is taken first, so that those not needed grow old and are closed."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        sweep: Sweep,
        origin: Origin,
        limits: Limits,
        idle_s: float,
        connections_max: int,
        tls: ssl.SSLContext | None,
    ) -> None:
        self.origin = origin
        self.name = origin.url
        self._loop = loop
        self._sweep = sweep
        self._limits = limits
        self._idle_s = idle_s
        self._connections_max = connections_max
        self._tls = tls
        self._idle: list[Connection] = []
        self._open: set[Connection] = set()
        self._places = 0  # open connections and those being opened
        self._waiters: deque[_Waiter] = deque()
        self._closing = False
        self._empty: asyncio.Future[None] | None = None

    def take(self) -> Connection | None:
        """Give an idle connection that is good for use, if there is one."""
        idle = self._idle
        now_s = self._loop.time()
        while idle:
            connection = idle.pop()
            if now_s - connection.idle_since_s < self._idle_s and connection.usable(now_s):
                return connection
            connection.close()
        return None

    async def wait(self, deadline_s: float) -> Connection:
        """Open a connection, or stand in line for one."""
        while True:
            if self._closing:
                raise Unavailable("This client is closed.", processed="no")
            connection: Connection | None
            if self._places < self._connections_max:
                self._places += 1
                connection = None
            else:
                connection = await self._turn(deadline_s)
            if connection is None:
                return await self._connect(deadline_s)
            if connection.usable(self._loop.time()):
                return connection
            connection.close()  # it was lost between hand-over and now

    def tidy(self, now_s: float) -> bool:
        """Close what has been idle for too long; say whether anything idle is left."""
        kept = [one for one in self._idle if now_s - one.idle_since_s < self._idle_s]
        if len(kept) != len(self._idle):
            for one in self._idle:
                if now_s - one.idle_since_s >= self._idle_s:
                    one.close()
            self._idle = [one for one in kept if one.phase is Phase.IDLE]
        return bool(self._idle)

    def unused(self) -> bool:
        """Say whether nothing is open, opening or waited for."""
        return not self._places and not self._waiters

    async def close(self) -> None:
        """Close everything, whatever is outstanding."""
        self._closing = True
        for waiter in self._waiters:
            if not waiter.turn.done():
                waiter.turn.set_exception(Unavailable("This client is closed.", processed="no"))
        self._waiters.clear()
        self._idle.clear()
        if self._open:
            self._empty = self._loop.create_future()
            for connection in list(self._open):
                connection.close()
            await self._empty

    async def _turn(self, deadline_s: float) -> Connection | None:
        waiter = _Waiter(self._loop, deadline_s, self.name)
        self._waiters.append(waiter)
        self._sweep.watch(waiter)
        self._sweep.due.by(deadline_s)
        try:
            return await waiter.turn
        except asyncio.CancelledError:
            # The hand-over may have happened already: then it belongs to the next in line.
            if waiter.turn.done() and not waiter.turn.cancelled() and waiter.turn.exception() is None:
                self._hand_on(waiter.turn.result())
            raise
        finally:
            self._sweep.forget(waiter)

    def _hand_on(self, connection: Connection | None) -> None:
        """Give a connection, or the place of one, to the next in line."""
        waiters = self._waiters
        while waiters:
            waiter = waiters.popleft()
            if not waiter.turn.done():
                waiter.turn.set_result(connection)
                return
        if connection is None:
            self._places -= 1
        else:
            self._idle.append(connection)

    async def _connect(self, deadline_s: float) -> Connection:
        """Open a connection in a place that was counted already."""
        try:
            async with asyncio.timeout_at(min(deadline_s, self._loop.time() + CONNECT_S)):
                transport, connection = await self._loop.create_connection(
                    lambda: Connection(self._loop, self._sweep, self._limits, self._release, self._gone, self.name),
                    self.origin.host,
                    self.origin.port,
                    ssl=self._tls,
                    server_hostname=self.origin.host if self._tls is not None else None,
                )
            peer = transport.get_extra_info("peername")  # None where it has ended already
            if peer is not None and peer == transport.get_extra_info("sockname"):
                # Where nobody listens, TCP may join a connection to itself; this and, if it were closed in peace, its
                # TIME_WAIT would keep the port from the server that is to come back.
                own_end: socket.socket = transport.get_extra_info("socket")
                own_end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                transport.abort()
                raise ConnectionRefusedError
        except OSError as error:  # TimeoutError and ssl.SSLError are too
            self._hand_on(None)
            raise self._unreachable(error, deadline_s) from error
        except BaseException:
            self._hand_on(None)
            raise
        if self._closing or connection.phase is not Phase.IDLE:
            self._hand_on(None)
            connection.close()
            raise Unavailable(f"The connection to {self.name} was closed as soon as it was open.", processed="no")
        self._open.add(connection)
        return connection

    def _release(self, connection: Connection) -> None:
        if self._waiters:
            self._hand_on(connection)
        else:
            self._idle.append(connection)

    def _gone(self, connection: Connection) -> None:
        if connection not in self._open:
            return  # it never got its place for good
        self._open.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)
        self._hand_on(None)
        if not self._open and self._empty is not None and not self._empty.done():
            self._empty.set_result(None)

    def _unreachable(self, error: OSError, deadline_s: float) -> Unavailable | DeadlineExceeded:
        if isinstance(error, TimeoutError) and self._loop.time() >= deadline_s:
            return DeadlineExceeded(f"No connection to {self.name} before the deadline.", processed="no")
        if isinstance(error, ssl.SSLError):
            detail = f"TLS: {getattr(error, 'verify_message', '') or error.reason or error}"
        elif isinstance(error, TimeoutError):
            detail = f"no connection within {CONNECT_S:g} s"
        elif isinstance(error, ConnectionRefusedError):
            detail = "nobody listens there"
        else:
            detail = error.strerror or str(error)
        return Unavailable(f"Can't reach {self.name}: {detail}.", processed="no")


class Transport:
    """All connections of one client, in one event loop."""

    def __init__(
        self,
        settings: Settings,
        *,
        tls: ssl.SSLContext | None = None,
        connections_per_origin: int = CONNECTIONS_PER_ORIGIN,
    ) -> None:
        """Open nothing yet. `tls`: whom to trust for https; by default the system's certificates."""
        self._loop = asyncio.get_running_loop()
        self._sweep = Sweep(self._loop)
        self._settings = settings
        self._limits = Limits(settings.reply_bytes_max, settings.header_bytes_max, settings.header_count_max)
        self._tls = tls
        self._connections_per_origin = connections_per_origin
        self._pools: dict[str, _Pool] = {}  # by the origin's URL
        self._tidying: asyncio.TimerHandle | None = None
        self._closed = False

    async def request(
        self,
        origin: Origin,
        method: str,
        path: str,
        headers: Sequence[tuple[str, str]] = (),
        body: bytes = b"",
        *,
        deadline_s: float,
        streams: bool = False,
    ) -> Response:
        """Send a request and give its answer, whatever its status. `deadline_s` is an instant of the loop's clock.

        With `streams` a `text/event-stream` comes as `Response.stream`; close it. Raises Unavailable,
        DeadlineExceeded, TransportError; `processed` is `no` only where nothing was written.
        """
        data = whole(method, path, origin, headers, body)
        return (await self.exchange(origin, data, deadline_s, streams)).response()

    async def exchange(
        self, origin: Origin, data: bytes, deadline_s: float, streams: bool = False, exchange: Exchange | None = None
    ) -> Received:
        """Send a request that is written out already, and give what came; otherwise as `request`. `exchange` is told
        when the answer is late, and may bring one of its own."""
        pool = self._pools.get(origin.url) or self._pool(origin)
        connection = pool.take() or await pool.wait(deadline_s)
        answer = connection.begin(data, deadline_s, streams, exchange)
        try:
            return await answer
        except asyncio.CancelledError:
            if answer.cancelled():
                connection.abandon(answer)
            elif answer.exception() is None and (stream := answer.result().stream) is not None:
                await stream.aclose()  # it came in the moment of cancelling
            raise

    async def close(self) -> None:
        """Close every connection; what is outstanding raises Unavailable."""
        self._closed = True
        if self._tidying is not None:
            self._tidying.cancel()
            self._tidying = None
        for pool in list(self._pools.values()):
            await pool.close()
        self._pools.clear()
        self._sweep.close()

    def _pool(self, origin: Origin) -> _Pool:
        if self._closed:
            raise Unavailable("This client is closed.", processed="no")
        if len(self._pools) >= ORIGINS_MAX:
            self._pools = {known: pool for known, pool in self._pools.items() if not pool.unused()}
        if origin.tls and self._tls is None:
            self._tls = ssl.create_default_context()
        pool = self._pools[origin.url] = _Pool(
            self._loop,
            self._sweep,
            origin,
            self._limits,
            self._settings.pool_idle_s,
            self._connections_per_origin,
            self._tls if origin.tls else None,
        )
        if self._tidying is None:
            self._tidying = self._loop.call_later(_TIDY_S, self._tidy)
        return pool

    def _tidy(self) -> None:
        now_s = self._loop.time()
        for pool in self._pools.values():
            pool.tidy(now_s)
        self._tidying = self._loop.call_later(_TIDY_S, self._tidy)
