"""The store thread: one thread with the one connection, one transaction a turn for all that has come in meanwhile.

In a transaction: deferred SQL, settle, what was staged, puts, claims, then everything else. Between two of them a
handler's transaction has the turn, if one asks for it (`transaction.py`). `synchronous` is FULL where somebody
will be told that something is kept, NORMAL for claims, renewals, progress and releases alone.
"""

import logging
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

import apsw
from msgspec import Struct

from ringpost.contract.errors import StoreError
from ringpost.core import lease
from ringpost.core.message import Message, Settlement, Statement
from ringpost.settings import Settings
from ringpost.store.hostclock import HostClock
from ringpost.store.port import Claimed, Put
from ringpost.store.sqlite import claim, damage, deferred, notes, put, schema, settle
from ringpost.store.sqlite.db import Db
from ringpost.store.sqlite.deferred import DeferredFailed, Failures, Overthrown
from ringpost.store.sqlite.disk import FATAL, Disk
from ringpost.store.sqlite.guard import Guard
from ringpost.store.sqlite.highwater import HighWater
from ringpost.store.sqlite.purge import mark
from ringpost.store.sqlite.put import EventMismatch, Room
from ringpost.store.sqlite.register import Register
from ringpost.store.sqlite.settle import FenceLost
from ringpost.store.sqlite.transaction import Ending, SqliteTransaction
from ringpost.store.sqlite.turn import Queues, Turn
from ringpost.store.sqlite.turnstile import Turnstile

ROWS_MAX = 1000  # of one transaction
FULL, NORMAL = 2, 1

_log = logging.getLogger("ringpost.store")


class Want(Struct):
    """What a claim asks for."""

    queues: Mapping[str, int]
    holder: int
    lease_s: float
    suspects: int


class Ask(Struct, eq=False):
    """One entry for the store thread, and its answer. `act` does what is no settlement, put or claim; with `reads` it
    runs outside of any transaction. `done` is called on the store thread once the answer is certain. `staged` and `sql`
    are of a call that settles nothing. `undone`: by their places, the settlements (or here, under 0) whose deferred SQL
    failed."""

    settlements: Sequence[Settlement] = ()
    messages: Sequence[Message] = ()
    staged: Sequence[Message] = ()
    sql: Sequence[Statement] = ()
    want: Want | None = None
    act: Callable[[Turn], Any] | None = None
    early: bool = False  # renewals come before everything: what is alive is never swept in the same turn
    reads: bool = False
    durable: bool = True
    reply: Any = None  # the future that waits for it
    done: Callable[["Ask"], None] | None = None
    value: Any = None
    undone: Mapping[int, Exception | None] = {}
    error: BaseException | None = None

    @property
    def rows(self) -> int:
        wanted = sum(self.want.queues.values()) if self.want is not None else 0
        staged = sum([len(one.staged) + len(one.sql) for one in self.settlements])
        own = len(self.messages) + len(self.staged) + len(self.sql)
        return len(self.settlements) + staged + own + wanted


class Writer:
    """Owns the connection. Everything but `send` and `stop` runs on its own thread."""

    def __init__(
        self,
        path: Path,
        settings: Settings,
        clock: HostClock,
        answered: Callable[[list[Ask]], None],
        committing: Callable[[Turn], None],
        committed: Callable[[Turn], None],
        watched: Callable[[], bool],
        failed: Callable[[BaseException], None],
    ) -> None:
        self._path = path
        self._settings = settings
        self._clock = clock
        self._answered = answered
        self._committing_hook = committing
        self._committed_hook = committed
        self._watched = watched
        self._failed_hook = failed
        self._inbox: SimpleQueue[list[Ask] | SqliteTransaction | None] = SimpleQueue()
        self._transactions: deque[SqliteTransaction] = deque()  # those that wait for the turn
        self._thread: threading.Thread | None = None
        self._opening: tuple[bool, bool] = (False, False)
        self._opened: SimpleQueue[BaseException | None] = SimpleQueue()
        self._progressed: set[int] = set()
        self._fence = schema.FIRST_FENCE
        self._keeps: set[int] = set()  # those that have a cursor
        self._marked_minute = 0
        self._synchronous = FULL
        self._wal_pages = 0
        self._wal_moved = False  # by the turn under way
        self.failure: BaseException | None = None
        self.store_id = ""
        self.writable_since_ms = 0  # uptime since which every turn was prompt
        self.last_write_ms = 0

    # --- from other threads

    def start(self, *, create: bool, accept_loss: bool) -> None:
        """Open the file on a thread of its own; returns once it is open. Raises what opening raised."""
        self._opening = (create, accept_loss)
        self._thread = threading.Thread(target=self._run, name="ringpost-store", daemon=True)
        self._thread.start()
        failure = self._opened.get()
        if failure is not None:
            self._thread.join()
            raise failure

    def send(self, asks: list[Ask]) -> None:
        """Hand entries over. They may be merged with others, and are answered in their order."""
        self._inbox.put(asks)

    def hold(self, transaction: SqliteTransaction) -> None:
        """Let a handler's transaction have the turn when it is its time."""
        self._inbox.put(transaction)

    def stop(self) -> None:
        """Finish what is in the inbox, checkpoint and close; blocks until it is done."""
        self._inbox.put(None)
        if self._thread is not None:
            self._thread.join()

    # --- the thread

    def _run(self) -> None:
        try:
            self._open(*self._opening)
        except OSError as exc:
            self._cannot_open(f"{exc.strerror}: {exc.filename or self._path}", exc)
            return
        except (*FATAL, apsw.FullError, apsw.BusyError) as exc:
            self._cannot_open(str(exc), exc)
            return
        except BaseException as exc:  # noqa: BLE001 (the border of the thread: it is raised where `start` waits)
            self._opened.put(exc)
            return
        self._opened.put(None)
        try:
            while self._serve():
                pass
        finally:
            self._close()

    def _cannot_open(self, why: str, exc: BaseException) -> None:
        error = StoreError(f"the store {self._path} can't be opened: {why}")
        error.__cause__ = exc
        self._opened.put(error)

    def _serve(self) -> bool:
        """Work one turn: everything that has come in, in transactions of bounded size, then one handler's transaction.
        False once told to stop and nothing is left."""
        batch: list[Ask] = []
        going = True
        try:
            entry = self._inbox.get(block=not self._transactions)
            while going:
                if isinstance(entry, list):
                    batch += entry
                elif entry is None:
                    going = False
                else:
                    self._transactions.append(entry)
                entry = self._inbox.get_nowait() if going else None
        except Empty:
            pass
        for part in _parts(batch):
            self._answer(part)
        if self._transactions:
            self._hold(self._transactions.popleft())
        if self._transactions and not going:
            self._inbox.put(None)  # to be told again
            return True
        return going

    def _answer(self, asks: list[Ask]) -> None:
        writes = [ask for ask in asks if not ask.reads]
        if writes:
            self._write(writes)
        for ask in asks:
            if ask.reads:
                self._read(ask)
        self._answered(asks)

    # --- opening and closing

    def _open(self, create: bool, accept_loss: bool) -> None:
        schema.place(self._path, create=create)
        with ExitStack() as opened:
            self._turnstile = opened.enter_context(closing(Turnstile(self._path)))
            self._mark = opened.enter_context(closing(HighWater(self._path)))
            self._turnstile.take()
            try:
                self.db = schema.connect(self._path)
                opened.callback(self.db.close)
                self.disk = Disk(self._path, self.db, self._mark)
                self.db.set_wal_hook(self._wal_grew)
                boot = self._clock.boot_id()
                schema.migrate(self.db, boot, create=create)
                self._check_mark(accept_loss)
                schema.note_boot(self.db, boot)
                self.disk.prepare()
            finally:
                self._turnstile.leave()
            self._queues = Queues(self.db)
            self._register = Register(self.db)
            self._guard = Guard(self.db)  # only now: apsw can't undo a failed step where statements are authorized
            self._fence = int(schema.read_meta(self.db, "fence"))
            self.store_id = str(schema.read_meta(self.db, "store_id"))
            self._files = opened.pop_all()

    def _check_mark(self, accept_loss: bool) -> None:
        """Notice a lost tail: more was committed than the file and its log hold."""
        last, (marked, end) = schema.last_seq(self.db), self._mark.read()
        pages = self._mark.lost_pages(self.db, end)
        if last < marked:
            lost = f"messages {last + 1} to {marked} of {self._path} were committed and are gone"
        elif pages:
            lost = f"the last commits to {self._path} ({pages} pages of its -wal) are gone, and settlements with them"
        else:
            return
        if not accept_loss:
            raise StoreError(
                f"{lost}: the file or its -wal was damaged, or is older than {self._path}.mark. "
                "Restore it from a backup, or open it with `ringpost run --accept-loss`"
            )
        _log.error("%s; going on without them, as asked", lost)
        schema.accept_loss(self.db, max(last, marked), lost, self._clock.wall_ms())
        self._mark.write(None, self._wal_pages)

    def _close(self) -> None:
        if self.failure is None:
            try:
                self._turnstile.take()
                self._mark.forget_log()
                self.db.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
            except apsw.Error:  # others use the file still: whoever is last does it
                pass
            finally:
                self._turnstile.leave()
        self._files.close()

    # --- turns

    def _read(self, ask: Ask) -> None:
        try:
            self._refuse_failed()
            assert ask.act is not None
            ask.value = ask.act(self._new_turn())
        except FATAL as exc:
            ask.error = self._fail(exc)
        except Exception as exc:  # noqa: BLE001 (the border of the thread: it is raised where the answer is awaited)
            ask.error = exc

    def _write(self, asks: list[Ask]) -> None:
        """Work entries in one transaction; if that fails without the file being at fault, one by one."""
        try:
            self._refuse_failed()
            self._transact_twice(asks)
        except FATAL as exc:
            _refuse(asks, self._fail(exc))
        except apsw.FullError:
            self._write_without_room(asks)
        except apsw.BusyError as exc:
            _refuse(asks, _busy(self._path, exc))
        except Exception as exc:  # noqa: BLE001 (one bad entry must not fail the others)
            if len(asks) == 1:
                asks[0].error = exc
            else:
                for ask in asks:
                    self._write([ask])

    def _write_without_room(self, asks: list[Ask]) -> None:
        """The disk is full: new messages are refused, what is settled goes on with the ballast's room."""
        self.disk.release()
        try:
            self._transact_twice(asks)
        except FATAL as exc:
            _refuse(asks, self._fail(exc))
        except apsw.Error as exc:  # not even the ballast was enough, or there was none
            full = _full(self._path, exc)
            for ask in asks:
                if ask.messages and not ask.settlements:
                    ask.value = [Put(message.id, refused="disk") for message in ask.messages]
                else:
                    _refuse([ask], full)

    def _transact_twice(self, asks: list[Ask]) -> None:
        """Take all to be well; where it isn't, take the turn again with a look at each. What ends the transaction of
        others is left out then. A damaged index is mended once."""
        careful = mended = False
        spoilt: dict[int, Exception] = {}
        while True:
            try:
                self._transact(asks, careful=careful, spoilt=spoilt)
                return
            except Overthrown as overthrown:
                spoilt[overthrown.place] = overthrown.error
            except (FenceLost, EventMismatch, DeferredFailed):
                if careful:
                    raise
                careful = True
            except apsw.CorruptError as error:
                if mended or not damage.is_of_an_index(error):
                    raise
                self._transact([Ask(act=partial(damage.mend, damage=error))], careful=False, spoilt={})
                mended = True

    def _transact(self, asks: list[Ask], *, careful: bool, spoilt: Mapping[int, Exception]) -> None:
        self._set_synchronous(FULL if any(ask.durable for ask in asks) else NORMAL)

        def work() -> Turn:
            turn = self._new_turn()
            turn.careful = careful
            self._work(turn, asks, spoilt)
            return turn

        self._have_turn(work)

    def _have_turn(self, work: Callable[[], Turn | None]) -> bool:
        """Take the turn, and do in one transaction what gives the Turn to commit, or None to undo it."""
        started_ms = self._clock.uptime_ms()
        self._turnstile.take()
        self._wal_moved = False
        try:
            self.disk.check_there()
            self.db.execute("BEGIN IMMEDIATE")
            try:
                turn = work()
                if turn is None:
                    self._roll_back()
                else:
                    self._committing_hook(turn)
                    self.db.execute("COMMIT")
            except BaseException:
                self._roll_back()
                raise
            if turn is None:
                self._note_access(started_ms)
            else:
                self._after_commit(turn, started_ms)
        finally:
            self._turnstile.leave()
        if turn is not None:
            self._committed_hook(turn)
        return turn is not None

    def _work(self, turn: Turn, asks: list[Ask], spoilt: Mapping[int, Exception]) -> None:
        if turn.now_ms // 60_000 != self._marked_minute:
            turn.base()  # a mark says what there was before this minute's first
        for ask in asks:
            if ask.early and ask.act is not None:
                ask.value = ask.act(turn)
        settlements = [one for ask in asks for one in ask.settlements]
        held = settle.held(turn, settlements) if turn.careful and settlements else [True] * len(settlements)
        failures = self._run_deferred(turn, asks, settlements, held, spoilt)
        settled = [won and place not in failures for place, won in enumerate(held)] if failures else held
        if settlements:
            settle.settle(turn, [one for one, won in zip(settlements, settled, strict=True) if won])
        staged = [m for one, won in zip(settlements, settled, strict=True) if won for m in one.staged]
        for place, ask in enumerate(asks, len(settlements)):
            if (ask.staged or ask.sql) and place not in failures:
                staged += ask.staged
        if staged:
            self._put(turn, staged, None)
        messages = [message for ask in asks for message in ask.messages]
        puts = self._put(turn, messages, self._room()) if messages else []
        at = put_at = 0
        for place, ask in enumerate(asks, len(settlements)):
            if ask.messages:
                ask.value = puts[put_at : put_at + len(ask.messages)]
                put_at += len(ask.messages)
            if ask.settlements:
                ends = at + len(ask.settlements)
                ask.value = settled[at:ends]
                ask.undone = {nth - at: failures[nth] for nth in range(at, ends) if nth in failures} if failures else {}
                at = ends
            elif ask.staged or ask.sql:
                ask.value = [place not in failures]
                ask.undone = {0: failures[place]} if place in failures else {}
            if ask.want is not None:
                ask.value = self._claim(turn, ask.want, ask.value or [], ask.undone)
            if ask.act is not None and not ask.early:
                ask.value = ask.act(turn)
        while turn.letters:
            letters, turn.letters = turn.letters, []
            self._put(turn, letters, None)
        if turn.missed:
            notes.count_gaps(turn)
        if turn.keeps and (turn.now_ms // 60_000 != self._marked_minute or not turn.keeps <= self._keeps):
            mark(turn, turn.keeps)
        turn.write_tallies()

    def _run_deferred(
        self,
        turn: Turn,
        asks: list[Ask],
        settlements: Sequence[Settlement],
        held: Sequence[bool],
        spoilt: Mapping[int, Exception],
    ) -> Failures:
        """Run what handlers deferred, by settlement and then by entry; gives the failures by those places."""
        if not any([one.sql for one in settlements]) and not any([ask.sql for ask in asks]):
            return {}
        parts = [one.sql if holds else () for one, holds in zip(settlements, held, strict=True)]
        parts += [ask.sql for ask in asks]
        limit_s = self._settings.tx_hold_max_s / 2  # one may be running when the time for all is over
        if turn.careful or spoilt:
            return deferred.run_each(self.db, self._guard, parts, limit_s, spoilt)
        deferred.run_all(self._guard, parts, limit_s)
        return {}

    # --- a handler's transaction

    def _hold(self, transaction: SqliteTransaction) -> None:
        """Let a handler's transaction have the turn until it ends, or has had it for too long."""
        committed = False
        error: Exception | None = None
        try:
            self._refuse_failed()
            if not transaction.abandoned:
                self._set_synchronous(FULL)
                committed = self._have_turn(lambda: self._serve_transaction(transaction))
        except FATAL as exc:
            error = self._fail(exc)
        except apsw.FullError as exc:
            self.disk.release()
            error = _full(self._path, exc)
        except apsw.BusyError as exc:
            error = _busy(self._path, exc)
        except Overthrown as exc:
            error = exc.error
        except Exception as exc:  # noqa: BLE001 (the border of the thread: it is raised where the handler waits)
            error = exc
        transaction.close(error, committed=committed)

    def _serve_transaction(self, transaction: SqliteTransaction) -> Turn | None:
        ending = transaction.serve(self._guard)
        if ending is None:
            return None
        ask = ask_of(ending)
        turn = self._new_turn()
        turn.careful = True
        self._work(turn, [ask], {})
        for failure in ask.undone.values():
            raise failure or AssertionError("there is always time for one")
        return turn if all(ask.value or ()) else None

    def _put(self, turn: Turn, messages: Sequence[Message], room: Room | None) -> list[Put]:
        return put.put_all(turn, messages, room, claim.deliver)

    def _claim(self, turn: Turn, want: Want, settled: list[bool], undone: Mapping[int, Exception | None]) -> Claimed:
        queues = {name: wanted for name, wanted in want.queues.items() if not turn.look().paused(name, turn.uptime_ms)}
        found = claim.claim(turn, queues, want.holder, want.lease_s, want.suspects)
        full = len(found) >= sum(queues.values())
        return Claimed(found, settled, None if full and found else claim.next_due_s(turn), undone)

    def _room(self) -> Room:
        settings = self._settings
        return Room(settings.depth_max, settings.depth_bytes_max, self.disk.full(self._clock.uptime_ms()))

    def _new_turn(self) -> Turn:
        clock = self._clock
        turn = Turn(
            self.db, self._queues, self._register, clock.wall_ms(), clock.uptime_ms(), self._fence, self._progressed
        )
        turn.watched = self._watched()
        return turn

    def _after_commit(self, turn: Turn, started_ms: int) -> None:
        """Do what has to be done before the next may write, and before anybody is told: see that the log is there, the
        mark, and the log's size."""
        self.disk.check_log()
        self._fence = max(turn.fence, self._fence)
        self._progressed -= turn.over
        if self._wal_moved and self._synchronous == FULL:
            self._mark.write(turn.seq or None, self._wal_pages)
        if turn.seq:
            self._keeps |= turn.keeps
            self._marked_minute = turn.now_ms // 60_000
        self.disk.checkpoint(self._wal_pages)
        self._note_access(started_ms)

    def _note_access(self, started_ms: int) -> None:
        """Keep since when writing was possible without a stall: only then may others' leases be swept."""
        now_ms, patience_ms = self._clock.uptime_ms(), lease.sweep_after_s(self._settings.lease_s) * 1000
        if now_ms - started_ms > patience_ms or now_ms - self.last_write_ms > patience_ms:
            self.writable_since_ms = now_ms
        self.last_write_ms = now_ms

    def _set_synchronous(self, level: int) -> None:
        if level != self._synchronous:
            self.db.execute(f"PRAGMA synchronous = {level}")
            self._synchronous = level

    def _roll_back(self) -> None:
        self._queues.forget()
        self._register.forget()
        if self.db.in_transaction:
            self.db.execute("ROLLBACK")

    def _wal_grew(self, _db: Db, _name: str, pages: int) -> int:
        self._wal_pages = pages
        self._wal_moved = True
        return apsw.SQLITE_OK

    # --- failure

    def _refuse_failed(self) -> None:
        if self.failure is not None:
            raise StoreError(
                f"the store {self._path} has failed and takes nothing more: {self.failure}"
            ) from self.failure

    def _fail(self, exc: BaseException) -> StoreError:
        """The file can't be trusted any more: after a failed sync nobody knows what is on the disk. No second try."""
        first = self.failure is None
        if first:
            self.failure = exc
            _log.critical("the store %s has failed: %s; restart the process once the disk is well", self._path, exc)
        error = StoreError(f"the store {self._path} has failed: {exc}; restart the process once the disk is well")
        error.__cause__ = exc
        if first:
            self._failed_hook(exc)
        return error


def _refuse(asks: list[Ask], error: BaseException) -> None:
    for ask in asks:
        ask.value, ask.error = None, error


def ask_of(ending: Ending) -> Ask:
    """Give the entry that commits how a handling ended."""
    if ending.settlement is not None:
        return Ask(settlements=(ending.settlement,))
    return Ask(staged=ending.staged, sql=ending.sql)


def _busy(path: Path, cause: Exception) -> StoreError:
    error = StoreError(f"another program holds the store {path} locked: {cause}")
    error.__cause__ = cause
    return error


def _full(path: Path, cause: Exception) -> StoreError:
    error = StoreError(f"the disk of {path} is full; free some room")
    error.__cause__ = cause
    return error


def _parts(asks: list[Ask]) -> list[list[Ask]]:
    """Cut entries into transactions of at most ROWS_MAX rows; an entry is never cut."""
    parts: list[list[Ask]] = []
    rows = ROWS_MAX + 1
    for ask in asks:
        rows += ask.rows
        if rows > ROWS_MAX or not parts:
            parts.append([])
            rows = ask.rows
        parts[-1].append(ask)
    return parts
