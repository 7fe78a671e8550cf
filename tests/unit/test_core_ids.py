"""Ids: in order of time, the same for the same parts, readable again."""

import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ringpost.core import ids
from ringpost.core.line import line_id

MS = st.integers(0, (1 << 48) - 1)
RANDOM = st.integers(0, (1 << ids.RANDOM_BITS) - 1)
PART = st.one_of(st.binary(max_size=20), st.text(max_size=20))


@given(MS, RANDOM)
def test_an_id_is_a_uuid7_that_tells_its_time(now_ms: int, random_bits: int) -> None:
    id = ids.uuid7(now_ms, random_bits)
    known = uuid.UUID(bytes=id)
    assert (len(id), known.version, known.variant) == (16, 7, uuid.RFC_4122)
    assert ids.created_ms(id) == now_ms
    assert ids.text(id) == str(known)


@given(MS, RANDOM, RANDOM)
def test_ids_sort_by_time(now_ms: int, earlier: int, later: int) -> None:
    if now_ms:
        assert ids.uuid7(now_ms - 1, earlier) < ids.uuid7(now_ms, later)


@given(MS, RANDOM, RANDOM)
def test_every_random_bit_counts(now_ms: int, one: int, other: int) -> None:
    assert (ids.uuid7(now_ms, one) == ids.uuid7(now_ms, other)) is (one == other)


def test_bits_beyond_those_asked_for_are_ignored() -> None:
    assert ids.uuid7(7, (1 << 80) - 1) == ids.uuid7(7, (1 << 74) - 1)


@pytest.mark.parametrize("now_ms", [-1, 1 << 48])
def test_a_time_that_doesnt_fit_is_refused(now_ms: int) -> None:
    with pytest.raises(ValueError, match="uuid7"):
        ids.uuid7(now_ms, 0)


@given(st.binary(min_size=16, max_size=16))
def test_text_is_read_again(id: bytes) -> None:
    assert ids.parse(ids.text(id)) == id
    assert ids.parse(id.hex()) == id
    assert ids.parse(ids.text(id).upper()) == id


@pytest.mark.parametrize(
    "text",
    [
        "",
        "7",
        "g" * 32,
        "0" * 31,
        "0" * 33,
        "0190c2c6-0c5e-7c8e-9d5a-3f2b1a0c9d8",
        "0190c2c60-c5e-7c8e-9d5a-3f2b1a0c9d8e",
        "0190c2c6-0c5e-7c8e-9d5a-3f2b1a0c9-8e",
        "0190c2c6-0c5e7c8e9d5a3f2b1a0c9d8e",
        "0190c2c60c5e7c8e9d5a3f2b1a0c9d8e\n",
        "{0190c2c6-0c5e-7c8e-9d5a-3f2b1a0c9d8e}",
        " 0190c2c60c5e7c8e9d5a3f2b1a0c9d8",
        "0x90c2c60c5e7c8e9d5a3f2b1a0c9d8e",
        "٠" * 32,
        "ab " * 16,
    ],
)
def test_what_is_no_id_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="no message id"):
        ids.parse(text)


@given(st.text(max_size=40))
def test_parsing_raises_nothing_else(text: str) -> None:
    try:
        assert len(ids.parse(text)) == 16
    except ValueError:
        pass


@given(st.lists(PART, min_size=1, max_size=4))
def test_the_same_parts_give_the_same_id(parts: list[bytes | str]) -> None:
    assert ids.derived(*parts) == ids.derived(*parts)
    assert len(ids.derived(*parts)) == 16


@given(st.lists(PART, max_size=4), st.lists(PART, max_size=4))
def test_no_two_lists_of_parts_read_alike(one: list[bytes | str], other: list[bytes | str]) -> None:
    assert (ids.hash128(*one) == ids.hash128(*other)) is (one == other)


def test_where_parts_end_matters() -> None:
    derived = {
        ids.derived(*parts) for parts in [("ab", "c"), ("a", "bc"), ("abc",), (b"abc",), ("abc", ""), ("s3:abc",)]
    }
    assert len(derived) == 6


@given(MS, RANDOM, st.text(max_size=20))
def test_what_derives_from_an_id_keeps_its_time(now_ms: int, random_bits: int, purpose: str) -> None:
    parent = ids.uuid7(now_ms, random_bits)
    child = ids.derived(parent, purpose)
    assert ids.created_ms(child) == now_ms
    assert child != parent
    assert ids.created_ms(ids.derived(child, purpose)) == now_ms


@given(st.text(max_size=20), st.text(max_size=20))
def test_what_derives_from_words_tells_no_time(source: str, id: str) -> None:
    derived = ids.derived("cloudevent", source, id)
    assert (uuid.UUID(bytes=derived).version, uuid.UUID(bytes=derived).variant) == (8, uuid.RFC_4122)
    with pytest.raises(ValueError, match="doesn't tell"):
        ids.created_ms(derived)


def test_ids_of_other_makes_tell_no_time() -> None:
    for other in (uuid.uuid4().bytes, uuid.UUID(int=0).bytes, b"", b"short"):
        assert not ids.is_uuid7(other)


def test_derived_ids_stay_as_they_are() -> None:
    """Stored ids were derived by earlier versions: a change here would let repetitions through."""
    parent = ids.uuid7(1_700_000_000_000, 1)
    assert ids.text(ids.derived("schedule", "mail.schedule.tidy", "1700000000000")) == (
        "fe99d79e-31a8-8e94-ab97-9b826f7cd74e"
    )
    assert ids.text(ids.derived(parent, "outcome")) == "018bcfe5-6800-70b4-ba4b-a42ef770ac0a"


def test_lines_are_told_apart_by_scope_and_key() -> None:
    lines = {line_id(scope, key) for scope, key in [("a", "bc"), ("ab", "c"), ("a", "b"), ("a", "")]}
    assert len(lines) == 4
    assert all(len(line) == 16 for line in lines)
