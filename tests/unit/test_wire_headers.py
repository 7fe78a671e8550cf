"""Headers: what is read, what is refused and in which words, and that nothing else is ever raised."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ringpost.core import ids
from ringpost.core.after import After, Awaited
from ringpost.core.message import Priority
from ringpost.wire import headers
from ringpost.wire.headers import BadHeader, Preference

TRACE_ID, SPAN_ID = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
TRACE = f"00-{TRACE_ID}-{SPAN_ID}-01"
ASCII = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), min_size=1, max_size=255)


@pytest.mark.parametrize(
    ("value", "read"),
    [
        (None, Preference()),
        ("", Preference()),
        ("respond-async", Preference(True)),
        ("Respond-Async", Preference(True)),
        ("respond-async, wait=10", Preference(True, 10.0)),
        ("wait=10,respond-async", Preference(True, 10.0)),
        ("wait=0", Preference(False, 0.0)),
        ('wait="10"', Preference(False, 10.0)),
        ("wait=10; x=y", Preference(False, 10.0)),
        ("wait = 10", Preference(False, 10.0)),
        ("wait=10, wait=20", Preference(False, 10.0)),
        ("return=minimal, handling=lenient", Preference()),
        ("respond-async;foo=bar", Preference(True)),
        ("wait=999999999", Preference(False, 999999999.0)),
    ],
)
def test_prefer(value: str | None, read: Preference) -> None:
    assert headers.prefer(value) == read


@pytest.mark.parametrize(
    "value", ["wait", "wait=", "wait=-1", "wait=1.5", "wait=x", "wait=1e3", "wait=9999999999", "wait=١"]
)
def test_prefer_without_a_length(value: str) -> None:
    with pytest.raises(BadHeader, match="Prefer: wait takes a whole number of seconds"):
        headers.prefer(value)


@pytest.mark.parametrize(
    ("value", "length_s"),
    [
        ("1500ms", 1.5),
        ("10s", 10.0),
        ("2m", 120.0),
        ("1h", 3600.0),
        ("0ms", 0.0),
        ("0.5s", 0.5),
        ("999999h", 31_622_400.0),
    ],
)
def test_lengths_of_time(value: str, length_s: float) -> None:
    assert headers.length_s(value) == length_s


@pytest.mark.parametrize(
    "value", ["", "10", "s", "-1s", "1 s", "1S", "1.s", "1e3s", "10s ", "١s", "1d", "9" * 13 + "s"]
)
def test_what_is_no_length_of_time(value: str) -> None:
    with pytest.raises(BadHeader, match="Request-Timeout: takes a length of time such as 1500ms"):
        headers.length_s(value)


@given(st.floats(0, 1e6))
def test_a_length_is_never_rounded_up(length: float) -> None:
    assert length - 0.0011 < headers.length_s(headers.length_text(length)) <= length * (1 + 1e-12)


def test_what_is_over_is_nothing() -> None:
    assert headers.length_text(-5.0) == "0ms"


@given(ASCII)
def test_a_quoted_key_is_read_again(key: str) -> None:
    assert headers.idempotency_key(headers.quoted(key)) == key


@pytest.mark.parametrize(
    ("value", "key"),
    [
        ("8e03978e", "8e03978e"),
        ('"8e03978e"', "8e03978e"),
        (' "a" ', "a"),
        ('"a\\"b"', 'a"b'),
        ('"a\\\\b"', "a\\b"),
        ('a"b', 'a"b'),
        ("a b", "a b"),
        ("x" * 255, "x" * 255),
    ],
)
def test_idempotency_keys(value: str, key: str) -> None:
    assert headers.idempotency_key(value) == key


@pytest.mark.parametrize(
    "value", ["", '""', " ", '"', '"a', '"a"b', '"a\\b"', '"a\\"', "x" * 256, "é", "a\tb", '"é"', "a\x00"]
)
def test_what_is_no_key(value: str) -> None:
    with pytest.raises(BadHeader, match="Idempotency-Key"):
        headers.idempotency_key(value)


@pytest.mark.parametrize(("value", "read"), [("high", 2), ("normal", 3), ("low", 4), ("High", 2)])
def test_priorities(value: str, read: int) -> None:
    assert headers.priority(value) == Priority(read)
    assert headers.PRIORITY_WORDS[Priority(read)] == value.lower()


@pytest.mark.parametrize(
    ("read", "value", "count"),
    [(headers.depth, "0", 0), (headers.depth, "8", 8), (headers.depth, "1000", 1000), (headers.attempt, "1", 1)],
)
def test_counts(read: Callable[[str], int], value: str, count: int) -> None:
    assert read(value) == count


@pytest.mark.parametrize(
    ("read", "value"),
    [
        (headers.priority, ""),
        (headers.priority, "urgent"),
        (headers.depth, "-1"),
        (headers.depth, "1001"),
        (headers.depth, "1.0"),
        (headers.depth, ""),
        (headers.depth, "9" * 5000),
        (headers.attempt, "0"),
        (headers.attempt, "+1"),
        (headers.attempt, "١"),
        (headers.path, ""),
        (headers.path, "register"),
        (headers.path, "a.b,"),
        (headers.path, "a.b; drop"),
        (headers.path, "a.b\r\nx: y"),
        (headers.path, "A.b"),
        (headers.path, ",".join(["a.b"] * 17)),
        (headers.path, "a." + "b" * 100),
    ],
)
def test_what_is_refused(read: Callable[[str], object], value: str) -> None:
    with pytest.raises(BadHeader) as caught:
        read(value)
    assert caught.value.header.startswith("Ringpost-")
    assert len(str(caught.value)) < 300


def test_paths() -> None:
    assert headers.path("accounts.register") == ("accounts.register",)
    assert headers.path("a.b, c.d,mail.on.accounts.registered") == ("a.b", "c.d", "mail.on.accounts.registered")
    assert headers.path(headers.path_text(("a.b", "c.d"))) == ("a.b", "c.d")
    long = tuple(f"a.b{n}" for n in range(40))
    assert headers.path(headers.path_text(long)) == long[-16:]


@pytest.mark.parametrize(
    ("value", "valid"),
    [
        (TRACE, True),
        (TRACE[:-2] + "00", True),
        ("cc" + TRACE[2:] + "-what-the-future-brings", True),
        (None, False),
        ("", False),
        (TRACE.upper(), False),
        (TRACE + "-more", False),
        ("ff" + TRACE[2:], False),
        (f"00-{'0' * 32}-{SPAN_ID}-01", False),
        (f"00-{TRACE_ID}-{'0' * 16}-01", False),
        (TRACE[:-1], False),
        (TRACE + " ", False),
        ("x" * 10_000, False),
    ],
)
def test_a_trace_context_that_isnt_one_is_ignored(value: str | None, valid: bool) -> None:
    assert headers.traceparent(value) == (value if valid else "")


@pytest.mark.parametrize(
    ("value", "now_s", "after_s"),
    [
        (None, None, None),
        ("3", None, 3.0),
        (" 120 ", None, 120.0),
        ("0.25", None, 0.25),
        ("-1", None, 0.0),
        ("nan", None, None),
        ("inf", None, None),
        ("soon", None, None),
        ("", None, None),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 1445412470.0, 10.0),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 1445412490.0, 0.0),
        ("Wed, 99 Oct 2015 07:28:00 GMT", 0.0, None),
        ("Wed, 21 Oxt 2015 07:28:00 GMT", 0.0, None),
        ("Wed, 21 Oct 0000 07:28:00 GMT", 0.0, None),
        ("9999999999", 0.0, None),
    ],
)
def test_retry_after(value: str | None, now_s: float | None, after_s: float | None) -> None:
    assert headers.retry_after_s(value, now_s) == after_s


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.0, "1"), (0.2, "1"), (1.0, "1"), (1.2, "2"), (30.0, "30"), (float("nan"), "1"), (1e300, "31622400")],
)
def test_retry_after_is_said_in_whole_seconds(seconds: float, text: str) -> None:
    assert headers.retry_after_text(seconds) == text


STRICT: list[Callable[[str], object]] = [
    headers.prefer,
    headers.length_s,
    headers.idempotency_key,
    headers.priority,
    headers.depth,
    headers.attempt,
    headers.path,
]


@given(st.sampled_from(STRICT), st.text(max_size=40))
def test_whatever_comes_is_read_or_refused(read: Callable[[str], object], value: str) -> None:
    try:
        read(value)
    except BadHeader as error:
        assert error.header in str(error)


@given(st.text(max_size=60), st.none() | st.floats(0, 2e9))
def test_what_a_receiver_says_is_never_an_error(value: str, now_s: float | None) -> None:
    after_s = headers.retry_after_s(value, now_s)
    assert after_s is None or after_s >= 0
    headers.traceparent(value)


STORE, ONE, TWO = "5f0c8c2b9d1e4a37", ids.uuid7(1, 1), ids.uuid7(1, 2)


def test_what_a_call_is_to_come_after() -> None:
    token = headers.after(f"{STORE}; {ids.text(ONE)},shop.sold:{TWO.hex()}")
    assert token == After(STORE, (Awaited(ONE), Awaited(TWO, "shop.sold")))
    assert headers.after_text(token) == f"{STORE}; {ids.text(ONE)}, shop.sold:{ids.text(TWO)}"


@given(
    st.from_regex(r"[0-9A-Za-z_-]{1,64}", fullmatch=True),
    st.lists(st.tuples(st.binary(min_size=16, max_size=16), st.sampled_from(["", "a.b", "shop_2.sold"])), min_size=1),
)
def test_what_is_written_of_it_is_read_as_it_was(store: str, awaited: list[tuple[bytes, str]]) -> None:
    token = After(store, tuple(Awaited(*one) for one in awaited[:64]))
    assert headers.after(headers.after_text(token)) == token


@pytest.mark.parametrize(
    "value",
    [
        "",
        STORE,
        f"{STORE};",
        f"{STORE}; ,",
        f"{STORE}; {ids.text(ONE)},",
        f"{STORE}, {ids.text(ONE)}",
        f"; {ids.text(ONE)}",
        f"{STORE} ; {ids.text(ONE)}",
        f"{'x' * 65}; {ids.text(ONE)}",
        f"ü; {ids.text(ONE)}",
        f"{STORE}; {ids.text(ONE)[:-1]}",
        f"{STORE}; {ids.text(ONE)}; {ids.text(TWO)}",
        f"{STORE}; {ids.text(ONE)}, {STORE}; {ids.text(TWO)}",
        f"{STORE}; shop:{ids.text(ONE)}",
        f"{STORE}; :{ids.text(ONE)}",
        f"{STORE}; Shop.Sold:{ids.text(ONE)}",
        f"{STORE}; " + ", ".join([ids.text(ONE)] * 65),
    ],
)
def test_what_names_no_messages_of_a_store(value: str) -> None:
    with pytest.raises(BadHeader, match="Ringpost-After: takes the id of a store, a semicolon and 1 to 64 ids"):
        headers.after(value)
