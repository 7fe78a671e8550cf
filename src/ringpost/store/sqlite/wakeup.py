"""Wake-ups between the processes of one store: a datagram socket each, and a small shared table of who is idle.

`FILE.wake/table` holds a byte of flags a process and a bitmap of the queues that it waits for. Whoever commits looks
into it and sends one datagram to one idle process a queue, before the disk syncs: waking takes as long as that does.
All of it is a hint: a lost one costs a second of latency.
"""

import errno
import mmap
import os
import random
import socket
from collections.abc import Iterable
from pathlib import Path
from zlib import crc32

import msgspec

SLOTS = 256
BITMAP_BYTES = 64
IDLE, WATCHING = 1, 2
_SIZE = SLOTS * (1 + BITMAP_BYTES)
_NOBODY = bytes(SLOTS)
_IDS_MAX = 1000  # of one datagram: 16 kB


def tone(queue: str) -> int:
    """Give what a queue is rung by. Two of one tone wake each other for nothing, which does no harm."""
    return crc32(queue.encode())


class Ring(msgspec.Struct, array_like=True, gc=False):
    """What a datagram says: tones of queues with something new, ids that changed; with neither: look for yourself."""

    queues: list[int]
    ids: bytes

    def each_id(self) -> list[bytes]:
        return [self.ids[at : at + 16] for at in range(0, len(self.ids), 16)]


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Ring).decode


class Bell:
    """This process's socket and its place in the table. Without a free place it only rings others."""

    def __init__(self, path: Path) -> None:
        self._folder = Path(f"{path}.wake")
        self._folder.mkdir(mode=0o700, exist_ok=True)
        self._directory = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        table = os.open(self._folder / "table", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.ftruncate(table, _SIZE)
            self._table = mmap.mmap(table, _SIZE)
        finally:
            os.close(table)
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        self._slot = self._settle_down()

    def _settle_down(self) -> int | None:
        """Bind to the first place that nobody answers at. Two processes that want one place race for the bind."""
        for slot in range(SLOTS):
            if self._answers(slot):
                continue
            self._name(slot).unlink(missing_ok=True)
            try:
                self.socket.bind(self._address(slot))
            except OSError as exc:
                if exc.errno != errno.EADDRINUSE:
                    raise
                continue
            self._table[slot] = 0
            return slot
        return None

    def _answers(self, slot: int) -> bool:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as probe:
            return probe.connect_ex(self._address(slot)) == 0

    def _name(self, slot: int) -> Path:
        return self._folder / f"{slot}.sock"

    def _address(self, slot: int) -> str:
        """Give a path that fits into a socket address, however long the folder's is."""
        plain = str(self._name(slot))
        return plain if len(plain.encode()) < 100 else f"/proc/self/fd/{self._directory}/{slot}.sock"

    # --- of this process, on the loop's thread

    def wait_for(self, tones: Iterable[int], *, watching: bool) -> None:
        """Say what this process waits for; with nothing it is busy and isn't rung."""
        if self._slot is None:
            return
        bits = 0
        for each in tones:
            bits |= 1 << (each % (BITMAP_BYTES * 8))
        start = SLOTS + self._slot * BITMAP_BYTES
        self._table[start : start + BITMAP_BYTES] = bits.to_bytes(BITMAP_BYTES, "little")
        self._table[self._slot] = (IDLE if bits else 0) | (WATCHING if watching else 0)

    def heard(self) -> list[Ring]:
        """Take all that was rung."""
        rings: list[Ring] = []
        while True:
            try:
                rings.append(_decode(self.socket.recv(1 << 16)))
            except BlockingIOError:
                return rings
            except msgspec.DecodeError:  # not from us
                continue

    def close(self) -> None:
        if self._slot is not None:
            self._table[self._slot] = 0
            self._name(self._slot).unlink(missing_ok=True)
        self.socket.close()
        self._table.close()
        os.close(self._directory)

    # --- of the others, on the store's thread

    def anybody_watching(self) -> bool:
        """Say whether some other process waits for ids."""
        flags = self._table[:SLOTS]
        return flags != _NOBODY and any(
            flag & WATCHING for slot, flag in enumerate(flags) if flag and slot != self._slot
        )

    def ring(self, tones: Iterable[int], ids: list[bytes]) -> list[int]:
        """Wake one idle process for each queue, and all that wait for ids; gives the tones that somebody heard."""
        heard: list[int] = []
        flags = self._table[:SLOTS]
        if flags == _NOBODY:
            return heard
        others = [slot for slot, flag in enumerate(flags) if flag and slot != self._slot]
        random.shuffle(others)
        for each in tones:
            for slot in others:
                if self._table[slot] & IDLE and self._waits(slot, each) and self._send(slot, [each], []):
                    heard.append(each)
                    break
        if ids:
            for slot in others:
                if self._table[slot] & WATCHING:
                    for at in range(0, len(ids), _IDS_MAX):
                        self._send(slot, [], ids[at : at + _IDS_MAX])
        return heard

    def ring_watching(self) -> None:
        """Let all that wait for ids look for themselves."""
        for slot, flag in enumerate(self._table[:SLOTS]):
            if flag & WATCHING and slot != self._slot:
                self._send(slot, [], [])

    def _waits(self, slot: int, heard: int) -> bool:
        bit = heard % (BITMAP_BYTES * 8)
        return bool(self._table[SLOTS + slot * BITMAP_BYTES + bit // 8] & (1 << bit % 8))

    def _send(self, slot: int, queues: list[int], ids: list[bytes]) -> bool:
        """Send one datagram. Whoever is rung for a queue counts as busy until it says otherwise."""
        if queues:
            self._table[slot] &= ~IDLE & 0xFF
        try:
            self.socket.sendto(_encode(Ring(queues, b"".join(ids))), self._address(slot))
        except BlockingIOError:
            return True  # it has plenty to wake up for
        except OSError:  # nobody is there any more
            self._table[slot] = 0
            self._name(slot).unlink(missing_ok=True)
            return False
        return True
