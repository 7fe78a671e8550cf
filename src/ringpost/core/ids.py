"""Ids of messages: 16 bytes, uuid7, so that a store's index grows at its right edge.

What must be the same however often it is made (a delivery of an event, a tick of a schedule, the letter that tells of
an end) has a derived id: a hash of what it stems from. Derived from a uuid7 it keeps that one's time, and with it the
place in the index and the age; else it is a uuid8 (RFC 9562, section 5.8), which tells no time.
"""

import re
from hashlib import blake2b

SIZE_BYTES = 16
RANDOM_BITS = 74
_LOW_BITS = 62
_LOW = (1 << _LOW_BITS) - 1
_HIGH = (1 << (RANDOM_BITS - _LOW_BITS)) - 1
_MS_MAX = (1 << 48) - 1
_UUID7 = 0x7 << 76 | 0b10 << 62
_TEXT = re.compile(r"[0-9a-fA-F]{8}(-?)(?:[0-9a-fA-F]{4}\1){3}[0-9a-fA-F]{12}")


def uuid7(now_ms: int, random_bits: int) -> bytes:
    """Make an id of the time and at least 74 random bits (higher ones are ignored)."""
    if not 0 <= now_ms <= _MS_MAX:
        raise ValueError(f"{now_ms} ms is outside of what a uuid7 can tell")
    return (now_ms << 80 | _UUID7 | (random_bits >> _LOW_BITS & _HIGH) << 64 | random_bits & _LOW).to_bytes(16, "big")


def derived(*parts: bytes | str) -> bytes:
    """Make the id that these parts stand for: the same parts in the same order, the same id.

    A first part that is a uuid7 (16 bytes) lends its time.
    """
    id = bytearray(hash128(*parts))
    version = 0x80
    first = parts[0] if parts else b""
    if isinstance(first, bytes) and is_uuid7(first):
        id[:6] = first[:6]
        version = 0x70
    id[6] = id[6] & 0x0F | version
    id[8] = id[8] & 0x3F | 0x80
    return bytes(id)


def delivery(event_id: bytes, queue: str) -> bytes:
    """Give the id of the delivery of an event for one subscription: a repeated publish meets it again."""
    return derived(event_id, queue.encode())


def hash128(*parts: bytes | str) -> bytes:
    """Hash parts to 16 bytes. Each goes in with its kind and length, so no two lists of parts read alike."""
    framed: list[bytes] = []
    for part in parts:
        if isinstance(part, str):
            data = part.encode("utf-8", "surrogatepass")
            framed += (b"s%d:" % len(data), data)
        else:
            framed += (b"b%d:" % len(part), part)
    return blake2b(b"".join(framed), digest_size=16).digest()


def is_uuid7(id: bytes) -> bool:
    """Say whether an id tells when it was made."""
    return len(id) == SIZE_BYTES and id[6] >> 4 == 7 and id[8] >> 6 == 0b10


def created_ms(id: bytes) -> int:
    """Give the time in an id, Unix milliseconds. ValueError: it tells none."""
    if not is_uuid7(id):
        raise ValueError("this id doesn't tell when it was made")
    return int.from_bytes(id[:6], "big")


def text(id: bytes) -> str:
    """Write an id as a uuid is written."""
    h = id.hex()
    return f"{h[:8]}-{h[8:12]}-{h[12:16]}-{h[16:20]}-{h[20:]}"


def parse(text: str) -> bytes:
    """Read an id, with or without dashes. ValueError for anything else."""
    if _TEXT.fullmatch(text) is None:
        raise ValueError(f"{text[:80]!r} is no message id")
    return bytes.fromhex(text.replace("-", ""))
