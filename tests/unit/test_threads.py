"""Threads that no process waits for at its exit: as many as work at once, each used again, none after the end."""

import threading
from concurrent.futures import Future
from typing import Any

import pytest

from ringpost.service.threads import Daemons

GUARD_S = 30


def test_a_thread_that_is_free_is_used_again() -> None:
    daemons = Daemons(4)
    assert len({daemons.submit(threading.get_ident).result(GUARD_S) for _ in range(20)}) == 1
    daemons.close()


def test_as_many_run_at_once_as_there_may_be_threads_and_the_next_ones_wait() -> None:
    daemons, meeting, third = Daemons(2), threading.Barrier(3), threading.Event()
    first = [daemons.submit(lambda: meeting.wait(GUARD_S)) for _ in range(2)]
    waiting = daemons.submit(third.set)
    assert not third.is_set()
    meeting.wait(GUARD_S)
    for done in (*first, waiting):
        done.result(GUARD_S)
    assert third.is_set()
    daemons.close()


def test_what_fails_fails_where_it_is_waited_for() -> None:
    daemons = Daemons(1)
    with pytest.raises(ZeroDivisionError):
        daemons.submit(lambda: 1 // 0).result(GUARD_S)
    assert daemons.submit(lambda: "goes on").result(GUARD_S) == "goes on"
    daemons.close()


def test_at_the_end_what_runs_goes_on_what_waits_is_cancelled_and_nothing_is_taken() -> None:
    daemons, begun, go_on = Daemons(1), threading.Event(), threading.Event()

    def slow() -> threading.Thread:
        begun.set()
        go_on.wait(GUARD_S)
        return threading.current_thread()

    running: Future[Any] = daemons.submit(slow)
    waiting = daemons.submit(slow)
    assert begun.wait(GUARD_S)
    daemons.close()
    assert waiting.cancelled()
    with pytest.raises(RuntimeError, match="no more work"):
        daemons.submit(slow)
    go_on.set()
    thread = running.result(GUARD_S)
    thread.join(GUARD_S)
    assert not thread.is_alive()
    assert thread.daemon
