"""What goes out over HTTP as a breaker's probe: the same, but for the time that it asks to be waited for."""

import pytest

from ringpost import Contract, Operation
from ringpost.client.outgoing import NO_OPTIONS, Asked, More, posted
from ringpost.core.after import After
from ringpost.core.call import Call


class Far(Contract):
    write = Operation(int, int)


@pytest.mark.parametrize(
    ("headers", "briefly"),
    [
        ((), []),
        ((("prefer", "wait=25"), ("accept", "x")), [("accept", "x")]),
        (
            (("prefer", "respond-async, wait=3"), ("operation-id", "1")),
            [("prefer", "respond-async"), ("operation-id", "1")],
        ),
        ((("prefer", "respond-async"),), [("prefer", "respond-async")]),
    ],
)
def test_nothing_waits_for_more_than_it_takes(headers: More, briefly: list[tuple[str, str]]) -> None:
    call = Call("far.write", b"1", 5.0)
    out = posted(Far.write, call, NO_OPTIONS, headers).brief()
    assert (list(out.more), out.timed, out.call) == (briefly, True, call)
    asked = Asked("tickets", "far", "GET", "/tickets/1", headers, 5.0).brief()
    assert (list(asked.headers), asked.timed, asked.path) == (briefly, True, "/tickets/1")


def test_what_waits_by_its_nature_is_not_measured() -> None:
    assert not Asked("tickets", "far", "GET", "/tickets/1", (), 5.0, streams=True).brief().timed
    assert not posted(Far.write, Call("far.write", b"1", 5.0, after=After("a store", ()))).brief().timed
