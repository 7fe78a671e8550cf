"""Fetching outcomes: one question for all that is away behind one address, asked by one process of those on the store.

Nobody has to reach the sender for this, wherever it stands. What was asked to be cancelled is cancelled there, too.
"""

import asyncio
import logging
import secrets
from collections.abc import Iterable

import msgspec

from ringpost.client.world import REAL, World
from ringpost.contract.errors import RingpostError, TransportError
from ringpost.core import ids, notes
from ringpost.core.handover import FORWARD_S_MAX, Receipt, decode_receipt, end_cause, end_of
from ringpost.core.message import Cause, Failure, Record, State
from ringpost.forward.receiver import Receiver
from ringpost.store.port import Conclude, Filter, Note, Store
from ringpost.wire.outcomes import IDS_MAX, UNKNOWN, WAIT_S_MAX, Told, question, read_answer

TRANSIT_S = 10.0
_LOOK_S = 5.0  # how often to look for what another process handed over
_GATHER_S = 0.25  # what comes shortly after goes with the same question
_PAGE_WAIT_S = 1.0  # where more is away than goes into one question
_PAUSE_S_FIRST, _PAUSE_S_MAX = 0.25, 10.0
_LOG = logging.getLogger("ringpost.forward")


class Puller:
    """Fetch the outcomes of what is away in one forward queue."""

    def __init__(self, store: Store, receiver: Receiver, lease_s: float, world: World = REAL) -> None:
        self._store = store
        self._receiver = receiver
        self._lease_s = lease_s
        self._now_ms = world.wall_ms
        self._wait_s = min(WAIT_S_MAX, lease_s / 2)
        self._news = asyncio.Event()
        self._note = notes.puller(receiver.queue)
        self._me = secrets.token_hex(8).encode()
        self._after = 0  # where more is away than goes into one question: how far it was asked for
        self._cancelled: set[bytes] = set()  # ids whose cancelling was passed on

    def look(self) -> None:
        """Look soon what is away: something has been handed over."""
        self._news.set()

    async def run(self) -> None:
        """Fetch until cancelled."""
        pause_s = _PAUSE_S_FIRST
        try:
            while True:
                self._news.clear()
                try:
                    found = await self._fetch()
                except Exception as error:  # noqa: BLE001 (a border: whatever an answer does, fetching goes on)
                    _tell(self._receiver.queue, error)
                    await asyncio.sleep(pause_s)
                    pause_s = min(pause_s * 2, _PAUSE_S_MAX)
                    continue
                pause_s = _PAUSE_S_FIRST
                if not found:
                    await self._rest()
        finally:
            await asyncio.shield(self._leave())

    async def _fetch(self) -> bool:
        """Ask once for all that is away; False where there is nothing to ask for."""
        filter = Filter(self._receiver.queue, (State.FORWARDED,), after=self._after, limit=IDS_MAX, bodies=False)
        records = await self._store.find(filter)
        partly = self._after > 0 or len(records) == IDS_MAX
        self._after = records[-1].ref if len(records) == IDS_MAX else 0
        if not records:
            return partly
        if not await self._lead():
            return False
        records = await self._without_old(records)
        if not self._receiver.store_id:
            await self._receiver.learn()
        away = {receipt.id: (record, receipt) for record in records if (receipt := self._receipt(record)) is not None}
        if not away:
            return False
        await self._pass_on_cancels(record for record, _ in away.values())
        if not partly:
            self._cancelled &= {record.id for record, _ in away.values()}
        asked = {ids.parse(id) for id in away}
        told = await self._ask(asked, records, _PAGE_WAIT_S if partly else self._wait_s)
        orders = [_conclusion(*away[one.id], one, self._now_ms()) for one in told if one.id in away]
        known = [order for order in orders if order is not None]
        if known:
            await self._store.change(known)
        return True

    async def _ask(self, asked: set[bytes], records: Iterable[Record], wait_s: float) -> list[Told]:
        """Wait for the first outcomes, until there is news here: more that is away, or something to cancel."""
        quiet = frozenset(record.id for record in records if not record.cancel_asked)
        asking = asyncio.ensure_future(self._posted(asked, wait_s))
        news = asyncio.ensure_future(self._news.wait())
        changed = asyncio.ensure_future(self._store.wait(frozenset(), quiet, wait_s))
        try:
            await asyncio.wait((asking, news, changed), return_when=asyncio.FIRST_COMPLETED)
            if not asking.done():
                await asyncio.wait((asking,), timeout=_GATHER_S)
            return asking.result() if asking.done() else []
        finally:
            for task in (asking, news, changed):
                task.cancel()
            await asyncio.wait((asking, news, changed))

    async def _posted(self, asked: set[bytes], wait_s: float) -> list[Told]:
        headers = (("content-type", "application/json"), ("prefer", f"wait={max(int(wait_s), 1)}"))
        timeout_s = wait_s + TRANSIT_S
        response = await self._receiver.ask("POST", "/tickets:wait", headers, question(sorted(asked)), timeout_s)
        if response.status == 421:
            self._receiver.forget()
        if response.status != 200:
            raise TransportError(f"{self._receiver.url}/tickets:wait answered {response.status}")
        try:
            return read_answer(response.body)
        except msgspec.MsgspecError as error:
            raise TransportError(f"{self._receiver.url}/tickets:wait gave what can't be read: {error}") from error

    async def _pass_on_cancels(self, records: Iterable[Record]) -> None:
        for record in records:
            if record.cancel_asked and record.id not in self._cancelled:
                receipt = self._receipt(record)
                assert receipt is not None
                response = await self._receiver.ask("DELETE", f"/tickets/{receipt.id}", (), b"", TRANSIT_S)
                if response.status < 500:
                    self._cancelled.add(record.id)

    def _receipt(self, record: Record) -> Receipt | None:
        """Give under which id the other store has it; None where that isn't the store that is there now."""
        receipt = None if record.answer is None else decode_receipt(record.answer.body)
        if receipt is None:
            return Receipt(ids.text(record.id), self._receiver.store_id)
        if receipt.store_id != self._receiver.store_id:
            return None
        return receipt

    async def _without_old(self, records: list[Record]) -> list[Record]:
        """End what has been away for too long."""
        before_ms = self._now_ms() - FORWARD_S_MAX * 1000
        old = [record for record in records if record.created_ms < before_ms]
        if old:
            detail = f"{self._receiver.url} has told no outcome for {FORWARD_S_MAX / 86400:g} days"
            await self._store.change([_unknown(record, detail, self._now_ms()) for record in old])
        return [record for record in records if record.created_ms >= before_ms]

    async def _rest(self) -> None:
        """Wait for news, or until it is time to look what others have handed over."""
        try:
            async with asyncio.timeout(_LOOK_S):
                await self._news.wait()
        except TimeoutError:
            return
        await asyncio.sleep(_GATHER_S / 5)  # the hand-over is committed a moment after it was decided

    # --- one process asks for all

    async def _lead(self) -> bool:
        """Be the one who asks, for as long as the note is renewed."""
        kept = next((note for note in await self._store.notes(self._note) if note.name == self._note), None)
        if kept is not None and kept.value != self._me:
            return False
        note = Note(self._note, self._me, lease_s=self._lease_s)
        return await self._store.note_put(note, expect=0 if kept is None else kept.version)

    async def _leave(self) -> None:
        try:
            kept = next((note for note in await self._store.notes(self._note) if note.name == self._note), None)
            if kept is not None and kept.value == self._me:
                await self._store.note_drop(self._note)
        except RingpostError:
            _LOG.debug("the note of who fetches outcomes ends with its lease", exc_info=True)


def _conclusion(record: Record, receipt: Receipt, told: Told, now_ms: int) -> Conclude | None:
    """Say how a message ends here that has ended there; None where that was of an earlier generation."""
    if told.state == UNKNOWN:
        return _unknown(record, "the store that had it knows it no longer: its outcome can't be told", now_ms)
    to = end_of(told.state)
    if to is None or told.generation < receipt.generation:
        return None
    body = b"" if told.answer is None else told.answer.body
    code, detail = _said(body) if to not in (State.SUCCEEDED, State.FAILED) else ("", "")
    if to in (State.SUCCEEDED, State.FAILED):
        answer = None if told.answer is None or told.answer.status == 204 else told.answer
        return Conclude(record.id, record.generation, to, end_cause(to, code), answer)
    failure = Failure("There", detail, "", record.attempts, now_ms) if to is State.DEAD else None
    return Conclude(record.id, record.generation, to, end_cause(to, code), None, failure)


def _unknown(record: Record, detail: str, now_ms: int) -> Conclude:
    failure = Failure("OutcomeUnknown", detail, "", record.attempts, now_ms)
    return Conclude(record.id, record.generation, State.DEAD, Cause.OUTCOME_UNKNOWN, None, failure)


def _tell(queue: str, error: Exception) -> None:
    """Log why outcomes could not be fetched: that nobody answers is nothing to worry about, a fault of ours is."""
    if isinstance(error, RingpostError | ValueError):
        _LOG.info("outcomes of %s could not be fetched: %s", queue, error)
    else:
        _LOG.error("outcomes of %s could not be fetched, by a fault of Ringpost", queue, exc_info=error)


class _Problem(msgspec.Struct):
    """Of the problem that an end is, what is kept of it here."""

    code: str = ""
    title: str = ""
    detail: str = ""


def _said(body: bytes) -> tuple[str, str]:
    try:
        problem = _decode_problem(body)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return "", ""
    return problem.code, problem.detail or problem.title


_decode_problem = msgspec.json.Decoder(_Problem).decode
