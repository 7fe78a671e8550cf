"""`ringpost send` and `ringpost publish`: through a live door, which validates; else into the store, after a check
against the JSON Schema that is noted there. What a door has no header for (a delay, an expiry) goes into the store too.
"""

import asyncio
from typing import Any, Literal, cast

import click
import msgspec
from msgspec import Struct

from ringpost.cli.asked import (
    LENGTH,
    WHEN,
    body_of,
    checked_name,
    json_option,
    request_argument,
    settings_of,
    store_option,
)
from ringpost.cli.output import print_json
from ringpost.cli.places import AtDoor, InStore, Place
from ringpost.cli.posting import Terms, check_taker, event_id, event_of, message_of
from ringpost.cli.reach import EVENTS, Headers, Nobody, Reach
from ringpost.cli.said import say
from ringpost.cli.stores import described, operator, unknown
from ringpost.cli.watching import follow
from ringpost.client.options import checked_key
from ringpost.client.outcome import answer_from
from ringpost.client.store_sender import StoreSender
from ringpost.contract.errors import StoreError, TransportError, UsageError
from ringpost.core import ids
from ringpost.core.message import Answer, Message
from ringpost.core.notes import Described
from ringpost.wire.headers import quoted

_SEND_S = 10.0

Kind = Literal["operation", "event"]


class Receipt(Struct, kw_only=True):
    """What is printed of a message that was taken. `via`: the door's URL, or the store's."""

    id: str
    level: str
    duplicate: bool
    receivers: int
    via: str


class _Taken(Struct):
    """The body of a 202, as far as a receipt needs it."""

    id: str
    level: str = "durable"
    duplicate: bool = False
    receivers: int = 1


@click.command()
@click.argument("name", metavar="NAME")
@request_argument
@click.option("--watch", is_flag=True, help="Show its progress until it ends, then its answer.")
@click.option("--delay", type=WHEN, help="When it is due: 10m, or 2026-12-24T18:00:00Z.")
@click.option("--ttl", type=LENGTH, help="When it expires if nobody has begun it: 10m, 2h.")
@click.option("--key", help="Idempotency key: the same key is one message.")
@click.option("--ordering-key", help="Messages with the same one are handled in order.")
@click.option("--priority", type=click.Choice(["high", "normal", "low"]), help="Which is taken first.")
@click.option("--reply-to", metavar="NAME", help="The operation that takes the outcome.")
@store_option
@json_option
def send(
    name: str,
    request: str | None,
    watch: bool,
    delay: Any,
    ttl: float | None,
    key: str | None,
    ordering_key: str | None,
    priority: Literal["high", "normal", "low"] | None,
    reply_to: str | None,
    store: str | None,
    as_json: bool,
) -> int:
    """Send a REQUEST to the operation NAME as a message, and print its ticket.

    It goes through a live door, else straight into the store. Standard output has the ticket's id alone.

    \b
    Examples:
      ringpost send mail.welcome '{"id": "1", "email": "ada@example.com"}' --watch
      ringpost send reports.build @report.json --delay 10m --key june
    """
    checked_name(name, "operation")
    if reply_to is not None:
        checked_name(reply_to, "operation")
    terms = Terms(delay=delay, ttl_s=ttl, key=key, ordering_key=ordering_key, priority=priority, reply_to=reply_to)
    body = body_of(request)
    return asyncio.run(_post("operation", name, body, terms, store, watch=watch, as_json=as_json))


@click.command()
@click.argument("name", metavar="NAME")
@click.argument("data", required=False, metavar="[JSON|@FILE|-]")
@click.option("--delay", type=WHEN, help="When it is due: 10m, or 2026-12-24T18:00:00Z.")
@click.option("--ttl", type=LENGTH, help="When it expires if nobody has begun it: 10m, 2h.")
@click.option("--key", help="Idempotency key: the same key is one event.")
@click.option("--ordering-key", help="Events with the same one are handled in order.")
@click.option("--priority", type=click.Choice(["high", "normal", "low"]), help="Which is taken first.")
@store_option
@json_option
def publish(
    name: str,
    data: str | None,
    delay: Any,
    ttl: float | None,
    key: str | None,
    ordering_key: str | None,
    priority: Literal["high", "normal", "low"] | None,
    store: str | None,
    as_json: bool,
) -> int:
    """Publish the event NAME with its DATA to all who subscribe to it, and print its id.

    \b
    Example:
      ringpost publish accounts.registered '{"id": "1", "email": "ada@example.com"}'
    """
    checked_name(name, "event")
    terms = Terms(delay=delay, ttl_s=ttl, key=key, ordering_key=ordering_key, priority=priority)
    return asyncio.run(_post("event", name, body_of(data), terms, store, watch=False, as_json=as_json))


async def _post(
    kind: Kind, name: str, body: bytes, terms: Terms, store_url: str | None, *, watch: bool, as_json: bool
) -> int:
    async with Reach(settings_of(store_url), strict=store_url is not None) as reach:
        taken = await _hand_over(reach, kind, name, body, terms)
        if isinstance(taken, Answer):
            return say(name, taken, as_json=as_json)
        receipt, place = taken
        if not watch or place is None:
            _say_receipt(kind, name, receipt, as_json=as_json)
            return 0
        if not as_json:
            click.echo(f"sent {name} as {receipt.id} ({receipt.level})", err=True)
        return await follow(place, name, receipt.id, as_json=as_json)


async def _hand_over(
    reach: Reach, kind: Kind, name: str, body: bytes, terms: Terms
) -> tuple[Receipt, Place | None] | Answer:
    """Give the message to a door, or where that can't be to the store; an Answer where it was refused."""
    # A door takes the priority of a request, but has no word for an event's.
    store_only = terms.store_only or ("--priority" if kind == "event" and terms.priority is not None else "")
    if store_only:
        try:
            await reach.needed_store()
        except StoreError as error:
            raise UsageError(f"{store_only} needs the store, because no door takes it: {error}") from error
        return await _into_store(reach, kind, name, body, terms)
    try:
        return await _through_door(reach, kind, name, body, terms)
    except Nobody as nobody:
        if await reach.store() is None:
            raise TransportError(f"{str(nobody).rstrip('.')}. And {reach.no_store}", processed="no") from nobody
        return await _into_store(reach, kind, name, body, terms)


async def _through_door(
    reach: Reach, kind: Kind, name: str, body: bytes, terms: Terms
) -> tuple[Receipt, Place | None] | Answer:
    headers: Headers = (("content-type", "application/json"),)
    if kind == "operation":
        path = "/" + name.replace(".", "/")
        headers += (("prefer", "respond-async"),)
        if terms.key is not None:
            headers += (("idempotency-key", quoted(checked_key(terms.key, "--key"))),)
        if terms.priority is not None:
            headers += (("ringpost-priority", terms.priority),)
    else:
        path = EVENTS
        id = ids.text(event_id(name, terms.key))
        headers += (("ce-specversion", "1.0"), ("ce-id", id), ("ce-source", "ringpost"), ("ce-type", name))
    response, target = await reach.post(name, path, headers, body, _SEND_S)
    if response.status != 202:
        return answer_from(response)
    try:
        taken = msgspec.json.decode(response.body, type=_Taken)
    except msgspec.MsgspecError as error:
        raise TransportError(f"What answered at {target.origin.url} is no door of Ringpost.") from error
    receipt = Receipt(
        id=taken.id,
        level=taken.level,
        duplicate=taken.duplicate,
        receivers=taken.receivers,
        via=target.origin.url,
    )
    return receipt, AtDoor(reach.transport(), target, taken.id) if kind == "operation" else None


async def _into_store(reach: Reach, kind: Kind, name: str, body: bytes, terms: Terms) -> tuple[Receipt, Place | None]:
    store = await reach.needed_store()
    noted = await described(store, name)
    if noted is None or noted.kind != kind:
        if noted is not None:
            verb = "publish" if noted.kind == "event" else "send"
            raise UsageError(f"{name} is an {noted.kind}. Use `ringpost {verb}`.")
        raise await unknown(store, name, kind)
    message = _message(kind, name, noted, body, terms, reach)
    if terms.reply_to is not None:
        taker = await described(store, terms.reply_to)
        if taker is None:
            raise await unknown(store, terms.reply_to, "operation")
        check_taker(terms.reply_to, taker, message, reach.settings)
    receipt = await StoreSender(store).put(message)
    printed = Receipt(
        id=receipt.id,
        level=receipt.level,
        duplicate=receipt.duplicate,
        receivers=receipt.receivers,
        via=store.facts.url,
    )
    return printed, InStore(store, receipt.id) if kind == "operation" else None


def _message(kind: Kind, name: str, noted: Described, body: bytes, terms: Terms, reach: Reach) -> Message:
    make = event_of if kind == "event" else message_of
    return make(name, noted, body, terms, reach.settings, operator())


def _say_receipt(kind: Kind, name: str, receipt: Receipt, *, as_json: bool) -> None:
    if as_json:
        print_json(cast(object, receipt))
        return
    click.echo(receipt.id)
    verb = "published" if kind == "event" else "sent"
    said = f"{verb} {name} {'through' if receipt.via.startswith('http') else 'into'} {receipt.via} ({receipt.level})"
    if receipt.duplicate:
        said += "; it was known already, and nothing new was stored"
    elif kind == "event":
        said += f"; {receipt.receivers} subscription{'' if receipt.receivers == 1 else 's'}"
    elif not receipt.receivers:
        said += "; nobody has ever served it: it waits"
    click.echo(said, err=True)
    if kind == "operation":
        click.echo(f"follow it with: ringpost ticket {receipt.id} --watch", err=True)
