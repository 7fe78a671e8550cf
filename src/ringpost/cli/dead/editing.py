"""`ringpost dead edit`: a dead letter with a changed request, as a new message that says what it comes from."""

import asyncio
from typing import Any, cast

import click
import msgspec

from ringpost.cli.asked import body_of, request_argument, settings_of, store_option
from ringpost.cli.dead.choosing import dead_one, parsed
from ringpost.cli.dead.letter import operation_of
from ringpost.cli.posting import checked
from ringpost.cli.stores import described, opened, operator, unknown
from ringpost.contract.errors import StateError, StoreError, UsageError
from ringpost.core import ids
from ringpost.core.line import line_id
from ringpost.core.message import Cause, Envelope, Message, Record
from ringpost.core.notes import Described
from ringpost.settings import Settings
from ringpost.store.port import Drop


@click.command()
@click.argument("id", metavar="ID")
@request_argument
@click.option("--drop", "drops", is_flag=True, help="Remove the dead letter once the new message is durable.")
@store_option
def edit(id: str, request: str | None, drops: bool, store: str | None) -> int:
    """Send the request of the dead letter ID again with changes, as a new message that names it as its cause.

    The JSON is a merge patch (RFC 7396): what it names is changed, null removes a field, the rest stays, secrets
    unseen. The outcome is checked against what the service has noted. The dead letter stays, unless --drop; the same
    edit twice is one message. Prints the new id.

    \b
    Example:
      ringpost dead edit 01a205a1-ee60-74a2-a575-523908deee40 '{"email": "ada@example.com"}' --drop
    """
    patch = body_of(request)
    if not patch:
        raise UsageError('say what to change, as a JSON object: \'{"email": "ada@example.com"}\'.')
    settings = settings_of(store)

    async def work() -> None:
        async with opened(settings) as opened_store:
            record = await dead_one(opened_store, parsed(id), bodies=True)
            name = operation_of(record)
            noted = await described(opened_store, name)
            if noted is None:
                raise await unknown(opened_store, name, "operation")
            message = edited(record, noted, patch, settings)
            (put,) = await opened_store.put([message])
            if put.refused:
                raise StoreError(f"the store didn't take it ({put.refused}); the dead letter is as it was.")
            click.echo(ids.text(put.id))
            if put.duplicate:
                click.echo("this edit was made before; nothing was sent again", err=True)
            if drops:
                await opened_store.change([Drop(record.id, operator())])

    asyncio.run(work())
    return 0


def edited(record: Record, noted: Described, patch: bytes, settings: Settings) -> Message:
    """Make the message that takes a dead letter's place, its request changed by a JSON Merge Patch (RFC 7396).

    Its id is of the letter and the changed request: the same edit twice is one message. It keeps everything else, but
    goes to the end of its line. Raises InvalidRequest where the changed request doesn't fit what was noted, StateError
    for a letter that can't be read.
    """
    if record.cause is Cause.CHECKSUM:
        raise StateError(f"{ids.text(record.id)} is damaged; there is nothing sound to change.")
    try:
        envelope = msgspec.json.decode(record.headers, type=Envelope)
        before = msgspec.json.decode(record.body) if record.body else None
    except (msgspec.MsgspecError, UnicodeDecodeError):
        raise StateError(f"{ids.text(record.id)} is no JSON; send its request anew instead.") from None
    name = envelope.operation or record.queue
    changed = msgspec.json.encode(patched(before, msgspec.json.decode(patch)))
    body = checked(changed, noted, name, settings)
    old = ids.text(record.id)
    envelope = msgspec.structs.replace(
        envelope, causation_id=old, correlation_id=envelope.correlation_id or old, hops=0
    )
    scope = name if noted.kind == "event" else name.partition(".")[0]
    return Message(
        id=ids.derived(record.id, "edited", body),
        queue=record.queue,
        body=body,
        headers=msgspec.json.encode(envelope),
        priority=record.priority,
        line=line_id(scope, envelope.key) if envelope.key else None,
        keep_s=record.keep_s,
    )


def patched(before: Any, patch: Any) -> Any:
    """Apply a JSON Merge Patch: null removes, objects go in field by field, anything else takes the place."""
    if not isinstance(patch, dict):
        return patch
    after = dict(cast("dict[str, Any]", before)) if isinstance(before, dict) else {}
    for name, value in cast("dict[str, Any]", patch).items():
        if value is None:
            after.pop(name, None)
        else:
            after[name] = patched(after.get(name), value)
    return after
