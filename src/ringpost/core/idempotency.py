"""Idempotency: a key stands for one request of one caller to one operation.

The request is told apart by a digest over its canonical JSON, so that the order of members, spaces and the spelling of
a number don't make another request of it.
"""

from hashlib import blake2b
from math import isfinite

import msgspec

from ringpost.core.ids import hash128

_EXACT = 1 << 53


def dedup_id(identity: str | None, operation: str, key: str) -> bytes:
    """Name a key where it holds: for one identity (None or empty: nobody is told apart) and one operation."""
    return hash128("key", identity or "", operation, key)


def digest(body: bytes) -> bytes:
    """Digest a request, 16 bytes. A body that isn't JSON is taken byte for byte."""
    try:
        body = _encode(_decode(body)) if body else b""
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        pass
    return blake2b(body, digest_size=16).digest()


def _number(text: str) -> float | int | str:
    """Write whole numbers as such: 1.0, 1e0 and 1 are one number to JSON."""
    number = float(text)
    if not isfinite(number):
        return f"number:{text}"
    return int(number) if number.is_integer() and abs(number) < _EXACT else number


_decode = msgspec.json.Decoder(float_hook=_number).decode
_encode = msgspec.json.Encoder(order="sorted").encode
