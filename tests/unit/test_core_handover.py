"""Handing over to another store: what each answer means, as a table."""

import pytest

from ringpost.core.handover import (
    UNHURRIED_S_MAX,
    Course,
    Heard,
    Receipt,
    Step,
    course_of,
    decode_receipt,
    encode_receipt,
    forward_queue,
    forwarded_contract,
    outage_delay_s,
    settles,
)
from ringpost.core.message import Cause, State


def test_the_forward_queue_names_its_contract_and_is_no_operation() -> None:
    assert forward_queue("billing") == "forward.to.billing"
    assert forwarded_contract("forward.to.billing") == "billing"
    assert forwarded_contract("billing.charge") == ""
    assert forward_queue("billing").count(".") == 2  # an operation has one


OUTCOMES = [
    (Heard(200, "succeeded"), Course(Step.ENDED, State.SUCCEEDED)),
    (Heard(204, "succeeded"), Course(Step.ENDED, State.SUCCEEDED)),
    (Heard(409, "failed", "card_refused", declared=True), Course(Step.ENDED, State.FAILED, Cause.PROBLEM)),
    (Heard(409, "cancelled", "cancelled"), Course(Step.ENDED, State.CANCELLED, Cause.CANCELLED)),
    (Heard(504, "expired", "expired"), Course(Step.ENDED, State.EXPIRED, Cause.EXPIRED)),
    (Heard(422, "dead", "rejected"), Course(Step.ENDED, State.DEAD, Cause.REJECTED)),
    (Heard(500, "dead", "worker_lost"), Course(Step.ENDED, State.DEAD, Cause.WORKER_LOST)),
    (Heard(500, "dead", "of_a_later_version"), Course(Step.ENDED, State.DEAD, Cause.HANDLER_ERROR)),
    (Heard(200), Course(Step.ENDED, State.SUCCEEDED)),  # of a call under the same key
    (Heard(409, code="card_refused", declared=True), Course(Step.ENDED, State.FAILED, Cause.PROBLEM)),
]
REFUSALS = [
    (Heard(202), Step.AWAY, Cause.NONE),
    (Heard(400, code="invalid"), Step.REFUSED, Cause.REJECTED),
    (Heard(413, code="too_large"), Step.REFUSED, Cause.REJECTED),
    (Heard(415), Step.REFUSED, Cause.REJECTED),
    (Heard(422, code="mismatch"), Step.REFUSED, Cause.REJECTED),
    (Heard(422, code="key_reused"), Step.REFUSED, Cause.REJECTED),
    (Heard(500, code="too_old", processed=False), Step.REFUSED, Cause.TOO_OLD),
    (Heard(401), Step.AGAIN, Cause.NONE),
    (Heard(403), Step.AGAIN, Cause.NONE),
    (Heard(404, code="not_found"), Step.AGAIN, Cause.NONE),
    (Heard(405), Step.AGAIN, Cause.NONE),
    (Heard(421, code="wrong_store"), Step.ELSEWHERE, Cause.NONE),
    *((Heard(status), Step.OUTAGE, Cause.NONE) for status in (100, 301, 408, 409, 425, 429, 500, 502, 503, 504, 507)),
]


@pytest.mark.parametrize(("heard", "course"), OUTCOMES, ids=str)
def test_an_outcome_ends_it_as_it_ended_there(heard: Heard, course: Course) -> None:
    assert course_of(heard) == course


@pytest.mark.parametrize(("heard", "step", "cause"), REFUSALS, ids=str)
def test_an_answer_without_the_word_of_a_row_decides_no_outcome(heard: Heard, step: Step, cause: Cause) -> None:
    course = course_of(heard)
    assert (course.step, course.cause) == (step, cause)
    assert course.to is (State.DEAD if step is Step.REFUSED else None)


def test_only_ends_that_a_holder_may_make_are_settled_at_once() -> None:
    settled = {course.to for _, course in OUTCOMES if settles(course)}
    assert settled == {State.SUCCEEDED, State.FAILED, State.DEAD}


def test_a_word_that_is_no_end_decides_nothing() -> None:
    assert course_of(Heard(503, "running")).step is Step.OUTAGE


def test_an_outage_is_tried_again_ever_more_slowly_up_to_a_limit() -> None:
    delays = [outage_delay_s(failures, 1.0) for failures in range(1, 40)]
    assert delays == sorted(delays)
    assert delays[0] == 0.5
    assert delays[-1] == UNHURRIED_S_MAX
    assert outage_delay_s(0, 0.0) == 0.25


def test_a_receipt_is_read_as_it_was_written() -> None:
    receipt = Receipt("01a2", "store", 3)
    assert decode_receipt(encode_receipt(receipt)) == receipt
    assert decode_receipt(b"<html>") is None
