"""The parent of worker processes: forks them, puts new ones in the place of dead ones, passes signals on.

It has no loop, no thread and no store, so that a fork copies nothing that is in use. It sleeps in one place, waiting
for a signal, a restart that is due, or the next look at its workers and the files.
"""

import contextlib
import logging
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from typing import Final

from msgspec import Struct

from ringpost.http.watch import POLL_S, Watch

CANT_START: Final = 78  # EX_CONFIG: another try would end the same way
NO_STORE: Final = 4  # as all commands say it: the store can't be used, now
LONGEST_REST_S: Final = 5.0
STEADY_S: Final = 30.0  # a worker that lived so long has not failed at its start
LOOK_S: Final = 1.0  # a thread of the services' own code, which blocks no signals, may be given one of ours
KILL_S: Final = 2.0  # beyond the time that a worker has to stop by itself

_WAITED = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGCHLD})
_FROM_KERNEL: Final = 0x80  # si_code of what a terminal sends, to all processes of the foreground at once

_log = logging.getLogger("ringpost")


class Tie(Struct, frozen=True):
    """The ends of two pipes that a worker has: `parent` closes when the parent dies, and into `serving` goes a byte
    once the worker has started."""

    parent: int
    serving: int


class Place(Struct):
    """A place for one worker, and who is in it."""

    number: int
    pid: int = 0
    born_s: float = 0.0
    failures: int = 0
    due_s: float = 0.0  # when the next one may start


class Supervisor:
    """Keep `count` processes running `work`, which gets what ties it to this one.

    `work` returns the exit code of its process: CANT_START ends all, and so does NO_STORE while none has ever served;
    after that a store that is away is waited for. With a `watch`, all are started anew when a file changes. `stop_s`:
    how long workers may take to stop. `run` returns the exit code of the whole.
    """

    def __init__(self, count: int, work: Callable[[Tie], int], *, stop_s: float, watch: Watch | None = None) -> None:
        self._work = work
        self._stop_s = stop_s
        self._watch = watch
        self._places = [Place(number) for number in range(count)]
        self._stopping = False
        self._reloading = False
        self._waiting_for_change = False
        self._kill_at_s: float | None = None
        self._code = 0
        self._served = False  # whether any worker ever has

    def run(self) -> int:
        """Run until told to stop, or until a worker says that it can't start."""
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _WAITED)
        parent, self._tied = os.pipe()
        self._heard, serving = os.pipe()
        os.set_blocking(self._heard, False)
        self._tie = Tie(parent, serving)
        try:
            while not self._stopping or self._alive():
                self._start_due(before)
                self._wait()
                self._reap()
                self._look_at_files()
                self._kill_late()
        finally:
            for place in self._alive():
                os.kill(place.pid, signal.SIGKILL)
                os.waitpid(place.pid, 0)
            for end in (parent, self._tied, self._heard, serving):
                os.close(end)
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return self._code

    def _alive(self) -> list[Place]:
        return [place for place in self._places if place.pid]

    def _start_due(self, mask: set[signal.Signals] | set[int]) -> None:
        if self._stopping or self._waiting_for_change or (self._reloading and self._alive()):
            return
        self._reloading = False
        now_s = time.monotonic()
        for place in self._places:
            if not place.pid and place.due_s <= now_s:
                place.born_s = now_s
                place.pid = self._fork(mask)

    def _fork(self, mask: set[signal.Signals] | set[int]) -> int:
        sys.stdout.flush()
        sys.stderr.flush()
        pid = os.fork()
        if pid:
            return pid
        code = 1
        try:
            os.close(self._tied)
            os.close(self._heard)
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            code = self._work(self._tie)
        except SystemExit as leaving:
            code = leaving.code if isinstance(leaving.code, int) else 1
        except KeyboardInterrupt:  # told to stop before it had begun
            code = 0
        except BaseException:  # noqa: BLE001 (the border of the process)
            traceback.print_exc()
        finally:
            # What the parent would do at its exit isn't the child's to do.
            logging.shutdown()
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)

    def _wait(self) -> None:
        """Sleep until there is something to do."""
        now_s = time.monotonic()
        due = [place.due_s for place in self._places if not place.pid and not self._waiting_for_change]
        if self._kill_at_s is not None:
            due.append(self._kill_at_s)
        rest_s = min([LOOK_S if self._watch is None else POLL_S, *(max(0.0, due_s - now_s) for due_s in due)])
        told = signal.sigtimedwait(_WAITED, rest_s)
        if told is not None and told.si_signo != signal.SIGCHLD:
            # What the terminal sent has reached the workers already; a second signal would mean: at once.
            self._tell(told.si_signo, passed_on=told.si_code != _FROM_KERNEL)
            self._stopping = True

    def _tell(self, number: int, *, passed_on: bool = True) -> None:
        if self._kill_at_s is None:
            self._kill_at_s = time.monotonic() + self._stop_s + KILL_S
        if passed_on:
            for place in self._alive():
                os.kill(place.pid, number)

    def _reap(self) -> None:
        for place in self._alive():
            pid, status = os.waitpid(place.pid, os.WNOHANG)
            if not pid:
                continue
            place.pid = 0
            self._ended(place, pid, os.waitstatus_to_exitcode(status))
        if not self._alive():
            self._kill_at_s = None

    def _ended(self, place: Place, pid: int, code: int) -> None:
        now_s, served = time.monotonic(), self._have_served()
        if self._stopping:
            self._code = self._code or max(0, code)
            return
        if self._reloading:
            return
        if self._watch is not None and code:
            _log.error("the worker ended with code %d; the next change of a file starts it again", code)
            self._waiting_for_change = True
            return
        if code == CANT_START or (code == NO_STORE and not served):
            self._code, self._stopping = code, True
            self._tell(signal.SIGINT)
            return
        place.failures = 0 if now_s - place.born_s >= STEADY_S else place.failures + 1
        rest_s = min(LONGEST_REST_S, 0.1 * 2 ** (place.failures - 2)) if place.failures > 1 else 0.0
        place.due_s = now_s + rest_s
        how = f"by {signal.Signals(-code).name}" if code < 0 else f"with code {code}"
        _log.error("worker %d (process %d) ended %s; another starts in %.1f s", place.number, pid, how, rest_s)

    def _have_served(self) -> bool:
        """Say whether a worker has ever served."""
        with contextlib.suppress(BlockingIOError):
            self._served = bool(os.read(self._heard, 1 << 16)) or self._served
        return self._served

    def _look_at_files(self) -> None:
        if self._watch is None or self._stopping:
            return
        changed = self._watch.changed()
        if changed is not None:
            _log.warning("%s changed: starting anew", changed)
            self._waiting_for_change = False
            self._reloading = True
            for place in self._places:
                place.due_s = 0.0
            self._tell(signal.SIGINT)

    def _kill_late(self) -> None:
        if self._kill_at_s is not None and time.monotonic() >= self._kill_at_s:
            for place in self._alive():
                _log.error("process %d didn't stop in time and is killed", place.pid)
                os.kill(place.pid, signal.SIGKILL)
