"""A dead letter with a changed request: a new message that says what it comes from."""

from typing import Any, cast

import msgspec

from ringpost.cli.posting import checked
from ringpost.contract.errors import StateError
from ringpost.core import ids
from ringpost.core.line import line_id
from ringpost.core.message import Cause, Envelope, Message, Record
from ringpost.core.notes import Described
from ringpost.settings import Settings


def edited(record: Record, described: Described, patch: bytes, settings: Settings) -> Message:
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
    body = checked(changed, described, name, settings)
    old = ids.text(record.id)
    envelope = msgspec.structs.replace(
        envelope, causation_id=old, correlation_id=envelope.correlation_id or old, hops=0
    )
    scope = name if described.kind == "event" else name.partition(".")[0]
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
