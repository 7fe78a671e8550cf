"""What a rehearsal says of one dead letter, as people and machines see it: without secrets."""

from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import Struct

from ringpost.cli.dead.letter import envelope_of, masked
from ringpost.cli.output import json_of, plain
from ringpost.cli.stores import described
from ringpost.contract.codec import Codec
from ringpost.core import ids
from ringpost.core.message import Message, Record
from ringpost.service.host import Host
from ringpost.service.rehearsal import Rehearsal, Rehearsed
from ringpost.store.port import Store

_TEXT_CHARS_MAX = 300
_SENDS_MAX = 20
_HIDDEN = "…"

_WORDS: Mapping[str, str] = {
    "succeeds": "would succeed",
    "problem": "would be answered with a problem",
    "later": "would be put off",
    "fails": "would fail, and be tried again",
    "dies": "would die again",
    "unsure": "can't be foretold",
}


class Sends(Struct, frozen=True):
    """A message that would be sent, or an event that would be published; `…` for a body that may hold secrets."""

    verb: str
    name: str
    body: Any


class Foretold(Struct, frozen=True, kw_only=True):
    """What would become of a letter; `sends` are the first of `sends_in_all`."""

    id: str
    queue: str
    foretold: str
    why: str = ""
    reply: Any = None
    sends: list[Sends]
    sends_in_all: int


class Foreteller:
    """Put what a rehearsal says into words. Bodies are shown as far as it is known what in them is secret."""

    def __init__(self, rehearsal: Rehearsal, store: Store) -> None:
        self._rehearsal = rehearsal
        self._store = store
        self._codecs = _codecs(rehearsal.host)
        self._noted: dict[str, tuple[str, ...] | None] = {}

    async def foretold(self, record: Record) -> Foretold:
        """Rehearse a letter, and tell what came of it."""
        found = await self._rehearsal.of(record)
        reply_to = envelope_of(record.headers).reply_to
        handler = self._rehearsal.handlers[record.queue]
        reply = None
        if found.answer is not None:
            # Problems go to whoever asks: there are no secrets in them.
            body = found.answer.body
            reply = json_of(handler.reply.redact(body) if found.foretold == "succeeds" else body)
        return Foretold(
            id=ids.text(record.id),
            queue=record.queue,
            foretold=found.foretold,
            why=_why(found),
            reply=reply,
            sends=[await self._sends(message, reply_to) for message in found.sends[:_SENDS_MAX]],
            sends_in_all=len(found.sends),
        )

    async def _sends(self, message: Message, reply_to: str) -> Sends:
        if message.event:
            return Sends("publish", message.event, await self._body(message.event, message.body))
        name = envelope_of(message.headers).operation or message.queue
        if name == reply_to:  # the letter that brings the outcome has request and reply in it
            return Sends("reply to", name, _HIDDEN)
        return Sends("send", name, await self._body(name, message.body))

    async def _body(self, name: str, body: bytes) -> Any:
        codec = self._codecs.get(name)
        if codec is not None:
            return json_of(codec.redact(body))
        if name not in self._noted:
            noted = await described(self._store, name)
            self._noted[name] = None if noted is None else noted.secrets
        secrets = self._noted[name]
        if secrets is None:
            return _HIDDEN
        shown = json_of(body)
        for pointer in secrets:
            shown = masked(shown, pointer.split("/")[1:])
        return shown


def lines(one: Foretold) -> str:
    """Write it for people."""
    head = f"{one.id} {one.queue}: {_WORDS[one.foretold]}"
    if one.why:
        head += f": {one.why}"
    elif one.reply is not None:
        head += f", {_short(one.reply)}"
    parts = [head]
    parts += [f"  would {send.verb} {send.name} {_short(send.body)}".rstrip() for send in one.sends]
    more = one.sends_in_all - len(one.sends)
    if more:
        parts.append(f"  and {more:,} more")
    return "\n".join(plain(part) for part in parts)


def words(foretold: str) -> str:
    """Say in words what would become of a letter."""
    return _WORDS[foretold]


def _codecs(host: Host) -> dict[str, Codec[Any]]:
    operations = {name: operation.request for name, operation in host.operations.items()}
    return {**operations, **{name: event.data for name, event in host.events.items()}}


def _why(found: Rehearsed) -> str:
    if found.why:
        return found.why
    if found.failure is not None:
        return _cut(f"{found.failure.type}: {found.failure.message}")
    return f"by {found.delay_s:g} s" if found.foretold == "later" else ""


def _short(value: Any) -> str:
    if value is None:
        return ""
    return _HIDDEN if value == _HIDDEN else _cut(msgspec.json.encode(value).decode())


def _cut(text: str) -> str:
    return text if len(text) <= _TEXT_CHARS_MAX else f"{text[:_TEXT_CHARS_MAX]}…"
