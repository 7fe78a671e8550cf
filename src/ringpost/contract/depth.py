"""How deep JSON may nest: bounded before anything parses it, so that no body can exhaust the stack."""

import re

DEPTH_MAX = 64
# Shorter well-formed JSON can't be deeper than the limit, and whatever isn't well-formed the decoder refuses.
SHORTEST_TOO_DEEP_BYTES = 2 * (DEPTH_MAX + 1)
_ESCAPE = re.compile(rb"\\.", re.DOTALL)
_NOT_BRACKETS = bytes(byte for byte in range(256) if byte not in b"[]{}")
_ONE_KIND = bytes.maketrans(b"{}", b"[]")


def too_deep(body: bytes) -> bool:
    """Say whether JSON nests deeper than 64. Cheap where it doesn't: few brackets are counted and nothing else."""
    if body.count(b"[") + body.count(b"{") <= DEPTH_MAX:
        return False
    outside_strings = b"".join(_ESCAPE.sub(b"", body).split(b'"')[::2])
    brackets = outside_strings.translate(_ONE_KIND, _NOT_BRACKETS)
    for _ in range(DEPTH_MAX):
        shrunk = brackets.replace(b"[]", b"")
        if len(shrunk) == len(brackets):
            break
        brackets = shrunk
    return brackets.count(b"[") > DEPTH_MAX or (bool(brackets) and b"[]" in brackets)
