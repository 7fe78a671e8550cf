"""The network between simulated processes: bytes that are late, lost, doubled, or cut off in the middle.

It stands where sockets would: `create_connection` and `create_server` of the loop lead here, so that the product's own
client, server and HTTP are at work on both sides. A connection is a stream: what is written arrives whole and in order,
or nothing more arrives. Different connections overtake each other.
"""

import asyncio
import contextvars
import random
from collections.abc import Callable
from typing import Any, cast

from msgspec import Struct

from simulated.machine import Loop, Process, current

DELAY_S = 0.001
Factory = Callable[[], asyncio.Protocol]


class Weather(Struct):
    """What the network does now. Shares are of connections, or of pieces that are written."""

    slow: float = 0.0  # pieces that take up to `slow_s` longer
    slow_s: float = 0.0
    refuse: float = 0.0  # connections that aren't taken
    hang: float = 0.0  # connections that are neither taken nor refused
    lose: float = 0.0  # pieces after which nothing arrives in this direction
    cut: float = 0.0  # pieces after which the connection breaks; half of them arrive
    double: float = 0.0  # requests that may be repeated and that arrive twice


FAIR = Weather()


class Place:
    """What a listening socket is here."""

    def __init__(self, host: str, port: int) -> None:
        self.host = host
        self.port = port

    def setblocking(self, flag: bool) -> None:
        assert not flag


class _Listening(Struct, eq=False):
    factory: Factory
    process: Process | None
    context: contextvars.Context


class Network:
    """All connections, and who listens. A name may stand for several processes: each connection finds one of them."""

    def __init__(self, loop: Loop, chance: random.Random, trace: Callable[[str], None]) -> None:
        self.loop = loop
        self.chance = chance
        self.trace = trace
        self.weather = FAIR
        self.doubled: list[bytes] = []  # requests that arrived twice
        self._listening: dict[tuple[str, int], list[_Listening]] = {}
        self._ends: dict[End, None] = {}
        loop.create_connection = self.connect  # type: ignore[assignment, method-assign]
        loop.create_server = self.listen  # type: ignore[assignment, method-assign]

    def so(self, share: float) -> bool:
        """Let chance decide; fair weather asks it nothing."""
        return share > 0 and self.chance.random() < share

    def delay_s(self) -> float:
        weather = self.weather
        late_s = self.chance.random() * weather.slow_s if self.so(weather.slow) else 0.0
        return DELAY_S * (0.5 + self.chance.random()) + late_s

    async def listen(self, factory: Factory, *, sock: Place, **_: Any) -> "_Door":
        place = (sock.host, sock.port)
        listening = _Listening(factory, current(), contextvars.copy_context())
        self._listening.setdefault(place, []).append(listening)
        return _Door(self, place, listening)

    async def connect(
        self, factory: Factory, host: str, port: int, **_: Any
    ) -> tuple[asyncio.Transport, asyncio.Protocol]:
        await asyncio.sleep(self.delay_s())
        if self.so(self.weather.hang):
            await self.loop.create_future()
        there = [one for one in self._listening.get((host, port), ()) if one.process is None or one.process.alive]
        if not there or self.so(self.weather.refuse):
            raise ConnectionRefusedError(111, "Connection refused")
        listening = there[self.chance.randrange(len(there))]
        near = End(self, current(), contextvars.copy_context(), factory(), f"{host}:{port}")
        far = self._accept(listening, near)
        near.peer = far
        near.protocol.connection_made(near)
        return near, near.protocol

    def _accept(self, listening: _Listening, near: "End") -> "End":
        context = listening.context.copy()
        far = End(self, listening.process, context, context.run(listening.factory), near.name)
        far.peer = near
        far.listening = listening
        self._ends |= {near: None, far: None}
        context.run(far.protocol.connection_made, far)
        return far

    def again(self, near: "End", data: bytes) -> None:
        """Bring a request a second time, as a proxy does that repeats what it takes for harmless."""
        far = near.peer
        self.doubled.append(data)
        if far is not None and far.listening is not None and (far.process is None or far.process.alive):
            near_too = End(self, None, contextvars.copy_context(), _Deaf(), near.name)
            near_too.peer = self._accept(far.listening, near_too)
            self._ends[near_too] = None
            near_too._bring(data)

    def kill(self, process: Process) -> None:
        """Cut everything of a process that has been killed: its peers hear of it, a little later."""
        for end in [end for end in self._ends if end.process is process]:
            end.break_off()

    def calm(self) -> None:
        """Be fair from now on. Connections on which something was lost break, so that nobody waits on one any more."""
        self.weather = FAIR
        for end in [end for end in self._ends if end.mute]:
            end.break_both()

    def close(self, place: tuple[str, int], listening: _Listening) -> None:
        if listening in self._listening.get(place, ()):
            self._listening[place].remove(listening)

    def gone(self, end: "End") -> None:
        self._ends.pop(end, None)


class _Door(asyncio.AbstractServer):
    def __init__(self, network: Network, place: tuple[str, int], listening: _Listening) -> None:
        self._network, self._place, self._listening = network, place, listening

    def close(self) -> None:
        self._network.close(self._place, self._listening)


class _Deaf(asyncio.Protocol):
    """Takes no answer."""


class End(asyncio.Transport):
    """One end of a connection."""

    def __init__(
        self,
        network: Network,
        process: Process | None,
        context: contextvars.Context,
        protocol: asyncio.Protocol,
        name: str,
    ) -> None:
        super().__init__()
        self._network = network
        self.process = process
        self._context = context
        self.protocol = protocol
        self.name = name
        self.peer: End | None = None
        self.listening: _Listening | None = None
        self._arrives_s = 0.0  # nothing arrives before what was written before it
        self._closing = False
        self._over = False
        self.mute = False  # nothing more leaves from here
        self._paused = False
        self._kept: list[bytes] = []

    # --- what protocols use

    def write(self, data: Any) -> None:
        if self._closing or self.mute or not data:
            return
        network = self._network
        weather = network.weather
        data = bytes(data)
        if network.so(weather.lose):
            network.trace(f"lost on the way to {self._whither()}: {_head(data)}")
            self.mute = True
            return
        if network.so(weather.cut):
            network.trace(f"cut on the way to {self._whither()}: {_head(data)}")
            if network.so(0.5):
                self._bring(data)
            self.mute = True
            self._later(self.break_both)
            return
        self._bring(data)
        if self.listening is None and weather.double and _repeatable(data) and network.so(weather.double):
            network.trace(f"doubled: {_head(data)}")
            network.again(self, data)

    def writelines(self, pieces: Any) -> None:
        self.write(b"".join(pieces))

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self._later(lambda: self.peer and self.peer._eof())

    def close(self) -> None:
        if not self._closing:
            self._closing = True
            self._network.loop.call_soon(self._lost, None, context=self._context)
            self._later(lambda: self.peer and self.peer._eof())

    def abort(self) -> None:
        if not self._over:
            self._closing = True
            self._network.loop.call_soon(self._lost, None, context=self._context)
            self._later(lambda: self.peer and self.peer._reset())

    def is_closing(self) -> bool:
        return self._closing

    def pause_reading(self) -> None:
        self._paused = True

    def resume_reading(self) -> None:
        self._paused = False
        kept, self._kept = self._kept, []
        for data in kept:
            self._receive(data)

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def get_write_buffer_size(self) -> int:
        return 0

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return ("10.0.0.1", 40000) if name == "peername" else default

    # --- what happens

    def break_off(self) -> None:
        """Be gone with the process."""
        self.mute = self._closing = self._over = True
        self._network.gone(self)
        self._later(lambda: self.peer and self.peer._reset())

    def _bring(self, data: bytes) -> None:
        self._later(lambda: self.peer and self.peer._receive(data))

    def _later(self, act: Callable[[], object]) -> None:
        """Let something arrive at the other end; nothing overtakes anything."""
        loop = self._network.loop
        self._arrives_s = max(loop.time() + self._network.delay_s(), self._arrives_s)
        _outside.run(loop.call_at, self._arrives_s, act)

    def _receive(self, data: bytes) -> None:
        if self._over or self._closing:
            return
        if self._paused:
            self._kept.append(data)
            return
        self._network.loop.call_soon(self.protocol.data_received, data, context=self._context)

    def _eof(self) -> None:
        if not self._over:
            self._network.loop.call_soon(self._heard_eof, context=self._context)

    def _heard_eof(self) -> None:
        if not self._over and not self.protocol.eof_received():
            self.close()

    def _reset(self) -> None:
        if not self._over:
            self._closing = True
            error = ConnectionResetError(104, "Connection reset by peer")
            self._network.loop.call_soon(self._lost, error, context=self._context)

    def break_both(self) -> None:
        self._reset()
        if self.peer is not None:
            self.peer._reset()

    def _lost(self, error: Exception | None) -> None:
        if not self._over:
            self._over = True
            self._network.gone(self)
            self.protocol.connection_lost(error)

    def _whither(self) -> str:
        return self.name if self.listening is None else f"who called {self.name}"


_outside = contextvars.Context()  # of no process: bytes that are on their way outlive who wrote them


def _repeatable(data: bytes) -> bool:
    lowered = data.partition(b"\r\n\r\n")[0].lower()
    return b"\r\nidempotency-key:" in lowered or b"\r\noperation-id:" in lowered


def _head(data: bytes) -> str:
    return cast(str, data.split(b"\r\n", 1)[0].decode(errors="replace"))[:80]
