"""Codec: how values of one type are written as JSON and read again, with every error naming the field.

Writing ends with reading: msgspec checks types when it reads, so what was written is read once more (about 0.2 µs for a
small type). A value that the receiver would refuse is refused here, before anything is stored or sent.
"""

from collections.abc import Callable
from typing import Any, Generic, Literal, cast

import msgspec
from typing_extensions import TypeForm, TypeVar

from ringpost.contract import models, redaction
from ringpost.contract.depth import DEPTH_MAX, SHORTEST_TOO_DEEP_BYTES, too_deep
from ringpost.contract.errors import InvalidRequest, UsageError
from ringpost.contract.forms import accepted, article, example, refuse_clearly_wrong, shown
from ringpost.contract.pointer import Token, existing, locate, pointer, unwritable

T = TypeVar("T")
Role = Literal["request", "reply", "data", "value"]

_VERBS: dict[Role, str] = {"request": "takes", "reply": "replies with", "data": "carries", "value": "takes"}


class Codec(Generic[T]):
    """Write and read values of one type. Made when the contract is; reader and writer are built at first use.

    `type`: the type form. `empty`: it is None, and a body is empty. `owner`: whose it is, for messages.
    """

    __slots__ = ("_accepted", "_read", "_secret_shapes", "_write", "empty", "owner", "role", "type")

    def __init__(self, form: TypeForm[T], role: Role = "value", owner: str = "") -> None:
        """Raise UsageError for what can't be a type of JSON."""
        self.type: Any = form
        self.role: Role = role
        self.owner = owner
        self.empty = self.type is None or self.type is type(None)
        refuse_clearly_wrong(form, f"The {role}'s type{f' of {owner}' if owner else ''}")
        self._accepted = accepted(form)
        self._read: Callable[[bytes], T] = self._first_read
        self._write: Callable[[T], bytes] = self._first_write
        self._secret_shapes: list[redaction.Shape] | None = None

    def __repr__(self) -> str:
        return f"<Codec {shown(self.type)}>"

    def prepare(self) -> None:
        """Build reader and writer now; for the start of a service. Raises UsageError where a type isn't whole."""
        try:
            self._build()
        except NameError as error:
            raise UsageError(f"{self._subject()} is {shown(self.type)}, in which {error}.") from None
        except TypeError as error:
            raise UsageError(f"{self._subject()} is {shown(self.type)}, which can't be JSON: {error}.") from None

    def encode(self, value: T) -> bytes:
        """Write a value as JSON; of an empty type nothing.

        Raises UsageError for a value of another type, InvalidRequest with a JSON Pointer for a field that doesn't fit.
        """
        if not isinstance(value, self._accepted):
            raise UsageError(self._wrong_type(value))
        if self.empty:
            return b""
        try:
            body = self._write(value)
        except (TypeError, ValueError, OverflowError, RecursionError, msgspec.EncodeError) as error:
            raise self._invalid(unwritable(value, self._write), _reason(error)) from None
        self.decode(body)
        return body

    def decode(self, body: bytes) -> T:
        """Read JSON. Raises InvalidRequest with a JSON Pointer to what doesn't fit."""
        if self.empty:
            return self._nothing(body)
        if len(body) >= SHORTEST_TOO_DEEP_BYTES and too_deep(body):
            raise self._invalid([], f"JSON nests deeper than {DEPTH_MAX}")
        try:
            if not body.isascii():
                body.decode()  # The reader skips what it doesn't know without looking whether it is UTF-8.
            return self._read(body)
        except (msgspec.DecodeError, ValueError, RecursionError) as error:
            raise self._unread(error, body) from None

    def schema(self) -> dict[str, Any]:
        """Give the JSON Schema (2020-12) of the type, its parts under `$defs`."""
        if models.holds_model(self.type):
            return models.model_schema(self.type)
        parts: dict[str, Any] = {}

        def of_model(form: type) -> dict[str, Any]:
            described = models.model_schema(form)
            parts.update(described.pop("$defs", {}))
            return described

        whole = msgspec.json.schema(self.type, schema_hook=of_model)
        if parts:
            whole.setdefault("$defs", {}).update(parts)
        return whole

    @property
    def secrets(self) -> tuple[str, ...]:
        """JSON Pointers of the Secret fields; `*` stands for every entry of a list or dict."""
        return redaction.pointers(self._shapes())

    def redact(self, body: bytes) -> bytes:
        """Give the body with `***` for every Secret, for logs and views. What isn't JSON is hidden whole."""
        return redaction.redacted(body, self._shapes())

    def _shapes(self) -> list[redaction.Shape]:
        if self._secret_shapes is None:
            self._secret_shapes = redaction.shapes_of(self.type)
        return self._secret_shapes

    def _build(self) -> None:
        if models.holds_model(self.type):
            self._read, self._write = models.reader(self.type), models.writer(self.type)
            return
        refuse_clearly_wrong(self.type, self._subject())
        self._read = cast("Callable[[bytes], T]", msgspec.json.Decoder(self.type, dec_hook=models.read_model).decode)
        self._write = msgspec.json.Encoder(enc_hook=models.write_model).encode

    def _first_read(self, body: bytes) -> T:
        self.prepare()
        return self._read(body)

    def _first_write(self, value: T) -> bytes:
        self.prepare()
        return self._write(value)

    def _nothing(self, body: bytes) -> T:
        if body and body.strip() != b"null":
            raise self._invalid([], f"{self._giver()} {_VERBS[self.role]} nothing: leave the body empty")
        return cast(T, None)

    def _unread(self, error: Exception, body: bytes) -> InvalidRequest:
        if not body:
            return self._invalid([], "the body is empty")
        if isinstance(error, RecursionError):
            return self._invalid([], f"JSON nests deeper than {DEPTH_MAX}")
        try:
            document = cast(object, msgspec.json.decode(body))
        except (msgspec.DecodeError, UnicodeDecodeError) as malformed:
            return self._invalid([], f"not JSON: {_reason(malformed)}")
        if isinstance(error, msgspec.ValidationError):
            return self._invalid(*locate(error, document, self._read))
        if isinstance(error, UnicodeDecodeError):
            return self._invalid([], f"not JSON: {_reason(error)}")
        loc, detail = models.mismatch(cast(ValueError, error))
        return self._invalid(existing(loc, document), detail[:1].lower() + detail[1:])

    def _invalid(self, place: list[Token], detail: str) -> InvalidRequest:
        at = pointer(place)
        where = f" at {at}" if at else ""
        return InvalidRequest(
            f"{self._subject()} doesn't fit {shown(self.type)}{where}: {detail}.", pointer=at, detail=detail
        )

    def _wrong_type(self, value: object) -> str:
        wanted = shown(self.type)
        way = example(self.type)
        made = f" Write {way}." if way else ""
        verb = f"{self._giver()} {_VERBS[self.role]} {'nothing' if self.empty else article(wanted)}"
        if hasattr(value, "__await__"):
            return f"{verb}, not something still to be awaited: an await is missing."
        if isinstance(value, type):
            return f"{verb}, not the class {value.__name__} itself.{made}"
        if self.empty:
            return (
                f"{verb}: {'hand over' if self.role == 'request' else 'give'} None, not {article(shown(type(value)))}."
            )
        return f"{verb}, not {article(shown(type(value)))}.{made}"

    def _subject(self) -> str:
        return f"The {self.role}{f' of {self.owner}' if self.owner else ''}"

    def _giver(self) -> str:
        return self.owner or f"The {self.role}"


def _reason(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "it holds itself, or nests too deeply"
    if isinstance(error, UnicodeEncodeError | UnicodeDecodeError):
        return "the text isn't valid Unicode"
    said = str(error)
    return said if said[1:2].isupper() else said[:1].lower() + said[1:]
