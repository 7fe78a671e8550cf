"""`ringpost check`: whether the code here reads what waits, runs or is dead in the store, before it goes live."""

import asyncio
import sys
from collections.abc import AsyncIterator, Sequence
from typing import Any, Final

import click
from msgspec import Struct

from ringpost.cli.asked import json_option, settings_of, store_option
from ringpost.cli.output import plain, print_json
from ringpost.cli.running import here_on_path, load_service
from ringpost.cli.stores import opened
from ringpost.contract.codec import Codec
from ringpost.contract.errors import InvalidRequest, UsageError
from ringpost.core import ids, notes
from ringpost.core.message import Cause, Record, State
from ringpost.service.service import Service
from ringpost.store.port import Filter, Store

_PAGE: Final = 500
_EXAMPLES_MAX: Final = 3
_BODY_BYTES_MAX: Final = 300
_COMES_AGAIN: Final = (State.SCHEDULED, State.WAITING, State.READY, State.RUNNING, State.DEAD)


class Example(Struct, frozen=True):
    """A message that can't be read. Secrets in `body` are masked."""

    id: str
    state: str
    why: str
    body: str


class Checked(Struct):
    """What was found in one queue. `lost`: nothing in the code has it, while its service is among those checked."""

    queue: str
    messages: int = 0
    unreadable: int = 0
    lost: bool = False
    examples: list[Example] = []


@click.command()
@click.argument("services", nargs=-1, required=True, metavar="MODULE:SERVICE...")
@store_option
@json_option
def check(services: tuple[str, ...], store: str | None, as_json: bool) -> int:
    """Read every message that waits, runs or is dead with the code of SERVICES, and say which doesn't fit it.

    Nothing is handled and nothing changes. Queues of these services that lost their operation count as well. Exit code
    1: there is something that this code can't handle.

    \b
    Example:
      ringpost check accounts:accounts mail:mail
    """
    here_on_path()
    loaded = [load_service(target) for target in services]

    async def work() -> list[Checked]:
        async with opened(settings_of(store)) as opened_store:
            return await checked(opened_store, loaded)

    found = asyncio.run(work())
    if as_json:
        print_json(found)
    else:
        _print(found)
    return 1 if any(one.unreadable or one.lost for one in found) else 0


async def checked(store: Store, services: Sequence[Service]) -> list[Checked]:
    """Look at each queue that holds something."""
    codecs: dict[str, Codec[Any]] = {
        queue: handler.request for service in services for queue, handler in service.handlers.items()
    }
    names = {service.name for service in services}
    owners = {
        note.name.removeprefix(notes.QUEUE): notes.decode_queue(note.value).service
        for note in await store.notes(notes.QUEUE)
    }
    found: list[Checked] = []
    for depth in await store.depths():
        held = depth.ready + depth.running + depth.scheduled + depth.waiting + depth.dead
        if depth.queue in codecs:
            found.append(await _read_queue(store, depth.queue, codecs[depth.queue], held))
        elif held and owners.get(depth.queue, depth.queue.partition(".")[0]) in names:
            found.append(Checked(depth.queue, held, lost=True))
    return found


async def _read_queue(store: Store, queue: str, codec: Codec[Any], expected: int) -> Checked:
    found = Checked(queue)
    async for record in _records(store, queue):
        found.messages += 1
        why = _why_unreadable(record, codec)
        if why:
            found.unreadable += 1
            if len(found.examples) < _EXAMPLES_MAX:
                body = codec.redact(record.body)[:_BODY_BYTES_MAX].decode("utf-8", "backslashreplace")
                found.examples.append(Example(ids.text(record.id), record.state.name.lower(), why, body))
        if found.messages % _PAGE == 0 and sys.stderr.isatty():
            click.echo(f"\r{queue}: {found.messages:,} of about {expected:,} read", nl=False, err=True)
    if found.messages >= _PAGE and sys.stderr.isatty():
        click.echo(err=True)
    return found


async def _records(store: Store, queue: str) -> AsyncIterator[Record]:
    after = 0
    while True:
        page = await store.find(Filter(queue=queue, states=_COMES_AGAIN, after=after, limit=_PAGE))
        for record in page:
            yield record
        if len(page) < _PAGE:
            return
        after = page[-1].ref


def _why_unreadable(record: Record, codec: Codec[Any]) -> str:
    if record.cause is Cause.CHECKSUM:
        return "what is stored is damaged"
    try:
        codec.decode(record.body)
    except InvalidRequest as error:
        return f"at {error.pointer}: {_cause(error, codec)}" if error.pointer else _cause(error, codec)
    except UsageError as error:
        return str(error)
    return ""


def _cause(error: InvalidRequest, codec: Codec[Any]) -> str:
    """Say what is wrong, but not what a Secret says."""
    return "it doesn't fit" if codec.secrets else error.detail


def _print(found: Sequence[Checked]) -> None:
    for one in found:
        if one.lost:
            click.echo(plain(f"{one.queue}: {one.messages:,} messages, and nothing in this code handles them"))
            continue
        many = "all fit" if not one.unreadable else f"{one.unreadable:,} can't be read"
        click.echo(plain(f"{one.queue}: {one.messages:,} messages, {many}"))
        for example in one.examples:
            click.echo(plain(f"  {example.id} ({example.state}) {example.why}\n    {example.body}"))
    if not any(one.messages for one in found):
        click.echo("Nothing waits and nothing is dead: any code will do.")
