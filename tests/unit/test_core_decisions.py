"""Small decisions: idempotency, retries, keeping, leases, deadlines, notes."""

import json
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ringpost.contract.errors import TransportError, Unavailable, UsageError
from ringpost.core import deadline, idempotency, lease, notes
from ringpost.core.keep import KEEP_KEYED_S, KEEP_LONGEST_S, KEEP_PLAIN_S, KEEP_WAITED_FOR_S, keep_s
from ringpost.core.message import Kind, State
from ringpost.core.retry import DEFAULT, Retry, next_delay_s, rule_for, spent

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(1 << 53), 1 << 53) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)

# --- idempotency


@given(JSON)
def test_a_request_spelt_otherwise_is_the_same(value: object) -> None:
    plain = json.dumps(value).encode()
    spelt = json.dumps(_reversed(value), indent=1, ensure_ascii=False).encode()
    assert idempotency.digest(plain) == idempotency.digest(spelt)


@given(JSON, JSON)
def test_another_request_has_another_digest(one: object, other: object) -> None:
    same = json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)
    digests = [idempotency.digest(json.dumps(value).encode()) for value in (one, other)]
    assert (digests[0] == digests[1]) is same


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (b"1", b"1.0", True),
        (b"1", b"1e0", True),
        (b"100", b"1e2", True),
        (b"0.1", b"0.10", True),
        (b"0", b"-0.0", True),
        (b"1", b"2", False),
        (b"1", b'"1"', False),
        (b"0.1", b"0.2", False),
        (b"9007199254740993", b"9007199254740992", False),
        (b"1e999", b"2e999", False),
        (b"1e999", b"null", False),
        (b'{"a":1,"b":2}', b'{"b":2,"a":1}', True),
        (b"[1,2]", b"[2,1]", False),
        (b'"\\u00e9"', '"é"'.encode(), True),
        (b"", b"null", False),
        (b"not json", b"not  json", False),
        (b"\xff", b"\xfe", False),
        (b'"\xff"', b'"\xfe"', False),
        (b"[" * 5000, b"[" * 5001, False),
    ],
)
def test_which_requests_are_one(one: bytes, other: bytes, same: bool) -> None:
    assert (idempotency.digest(one) == idempotency.digest(other)) is same
    assert len(idempotency.digest(one)) == 16


def test_a_key_holds_for_one_identity_and_operation() -> None:
    keys = {
        idempotency.dedup_id(identity, operation, key)
        for identity in ("", "ann", "ben")
        for operation in ("accounts.register", "accounts.remove")
        for key in ("a", "b")
    }
    assert len(keys) == 12
    assert idempotency.dedup_id(None, "a.b", "c") == idempotency.dedup_id("", "a.b", "c")


# --- retries


@given(st.integers(1, 10_000), st.floats(0, 1), st.floats(0.001, 1e6), st.floats(0, 1e6))
def test_a_delay_is_between_half_and_all_of_what_is_due(
    attempt: int, random01: float, first: float, more: float
) -> None:
    retry = Retry(first=first, longest=first + more)
    delay_s = next_delay_s(retry, attempt, random01)
    due_s = min(retry.longest, first * 2.0 ** min(attempt - 1, 900))
    assert due_s / 2 <= delay_s <= due_s
    assert delay_s <= retry.longest


@pytest.mark.parametrize(
    ("attempt", "least_s", "most_s"),
    [(1, 0.5, 1), (2, 1, 2), (3, 2, 4), (10, 256, 512), (11, 300, 600), (20, 300, 600), (100_000, 300, 600)],
)
def test_delays_of_the_usual_rule(attempt: int, least_s: float, most_s: float) -> None:
    assert next_delay_s(DEFAULT, attempt, 0.0) == least_s
    assert next_delay_s(DEFAULT, attempt, 1.0) == most_s


def test_the_last_attempt() -> None:
    assert next(attempt for attempt in range(1, 30) if spent(DEFAULT, attempt)) == 20
    assert spent(Retry(attempts=1), 1)
    assert spent(Retry(attempts=2), 3)


class Late(Unavailable):
    pass


class Tangled(ConnectionError, ValueError):
    pass


def test_the_nearest_class_counts() -> None:
    ours, theirs, plain = Retry(attempts=2), Retry(attempts=3), Retry(attempts=4)
    rules: dict[type[Exception], Retry] = {
        TransportError: ours,
        OSError: theirs,
        Exception: plain,
        ValueError: Retry(attempts=1),
    }
    assert rule_for(rules, Unavailable("")) is ours
    assert rule_for(rules, Late("")) is ours
    assert rule_for({**rules, Late: theirs}, Late("")) is theirs
    assert rule_for(rules, ConnectionRefusedError()) is theirs
    assert rule_for(rules, Tangled()) is theirs
    assert rule_for(rules, KeyError()) is plain
    assert rule_for({}, KeyError()) is DEFAULT
    assert rule_for(ours, KeyError()) is ours
    assert rule_for({OSError: ours}, SystemExit()) is DEFAULT


@pytest.mark.parametrize(
    "given",
    [
        {"attempts": 0},
        {"first": -1.0},
        {"first": float("nan")},
        {"first": float("inf")},
        {"longest": float("inf")},
        {"longest": 0.5},
        {"longest": float("nan")},
    ],
)
def test_no_retry_is_without_limit(given: dict[str, float]) -> None:
    with pytest.raises(UsageError, match=next(iter(given))):
        Retry(**given)  # type: ignore[arg-type]


# --- how long rows are kept


def test_how_long_rows_are_kept() -> None:
    assert keep_s() == KEEP_PLAIN_S == 3600
    assert keep_s(waited_for=True) == KEEP_WAITED_FOR_S == 86_400
    assert keep_s(keyed=True) == keep_s(repeatable=True) == keep_s(keyed=True, waited_for=True) == KEEP_KEYED_S
    assert KEEP_KEYED_S == 7 * 86_400
    assert KEEP_LONGEST_S == 30 * 86_400


# --- leases


@given(st.floats(1, 3600))
def test_between_two_holders_nobody_holds(lease_s: float) -> None:
    renewals = int(lease.give_up_after_s(lease_s) / lease.renew_every_s(lease_s) + 1e-9)
    assert renewals == 2, "two renewals may fail"
    assert lease.give_up_after_s(lease_s) < lease_s
    assert lease.sweep_after_s(lease_s) >= lease.renew_every_s(lease_s) * (1 - 1e-9), "holders can renew before a sweep"


@pytest.mark.parametrize(
    ("losses", "cancel_asked", "kind", "then"),
    [
        (1, False, Kind.MESSAGE, State.READY),
        (4, False, Kind.MESSAGE, State.READY),
        (5, False, Kind.MESSAGE, State.DEAD),
        (6, False, Kind.MESSAGE, State.DEAD),
        (1, True, Kind.MESSAGE, State.CANCELLED),
        (5, True, Kind.MESSAGE, State.CANCELLED),
        (1, False, Kind.CALL, None),
        (9, True, Kind.CALL, None),
    ],
)
def test_what_becomes_of_what_a_worker_lost(losses: int, cancel_asked: bool, kind: Kind, then: State | None) -> None:
    assert lease.after_loss(losses, cancel_asked=cancel_asked, kind=kind) == then


def test_who_is_suspect() -> None:
    assert [losses for losses in range(6) if lease.suspect(losses)] == [2, 3, 4, 5]


# --- deadlines


@pytest.mark.parametrize(
    ("asked", "declared", "length"),
    [(None, None, 5.0), (None, 2.0, 2.0), (1.0, 2.0, 1.0), (3.0, 2.0, 3.0), (90.0, None, 60.0), (None, 90.0, 60.0)],
)
def test_how_long_a_call_may_take(asked: float | None, declared: float | None, length: float) -> None:
    assert deadline.chosen_s(asked, declared, 5.0, 60.0) == length


@given(st.floats(0, 1e6), st.floats(0, 60), st.none() | st.floats(0, 1e6))
def test_a_child_ends_before_its_parent(now_s: float, timeout_s: float, parent_s: float | None) -> None:
    ends_s = deadline.child(now_s, timeout_s, parent_s)
    assert ends_s <= now_s + timeout_s
    if parent_s is not None:
        assert ends_s <= parent_s - deadline.MARGIN_S


# --- notes


def test_the_names_of_notes() -> None:
    assert notes.subscription("accounts.registered", "mail.on.accounts.registered") == (
        "subscription/accounts.registered/mail.on.accounts.registered"
    )
    assert notes.subscription("accounts.registered", "").endswith("/"), "so that no other event begins with it"
    assert notes.operation("mail.welcome") == "operation/mail.welcome"
    assert notes.instance("x") == "instance/x"
    assert notes.pause("mail.welcome") == "pause/mail.welcome"
    assert notes.queue("mail.welcome") == "queue/mail.welcome"


def test_notes_are_read_again() -> None:
    subscription = notes.Subscription("mail", 1, 2, True, 3, 4)
    assert notes.decode_subscription(notes.encode(subscription)) == subscription
    described = notes.Described(request={"type": "object"}, problems={"urn:x": {}}, secrets=("/a",), timeout_s=1.5)
    assert notes.decode_described(notes.encode(described)) == described
    instance = notes.Instance("http://h:1", "boot", operations=("a.b",))
    assert notes.decode_instance(notes.encode(instance)) == instance
    paused = notes.Pause("ann", int(datetime(2026, 1, 1, tzinfo=UTC).timestamp() * 1000), "broken")
    assert notes.decode_pause(notes.encode(paused)) == paused
    queue = notes.Queue("mail", "mail.on_failure", True)
    assert notes.decode_queue(notes.encode(queue)) == queue


@pytest.mark.parametrize("value", [b"", b"{}", b"null", b"[]", b"\xff", b'{"on_failure":7}', b'{"new":1}'])
def test_a_note_that_cant_be_read_says_nothing(value: bytes) -> None:
    assert notes.decode_queue(value) == notes.Queue()


def _reversed(value: object) -> object:
    if isinstance(value, dict):
        return {name: _reversed(value[name]) for name in reversed(value)}
    return [_reversed(item) for item in value] if isinstance(value, list) else value
