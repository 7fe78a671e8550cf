"""A contract as a document: what travels and what holds for it, for who has another version of it or no Python."""

import dataclasses
from typing import Any

import msgspec
from msgspec import Struct

from ringpost.contract.codec import Codec
from ringpost.contract.contract import Contract, events_of, name_of, operations_of
from ringpost.contract.errors import UsageError
from ringpost.contract.operation import Event, Operation
from ringpost.contract.problem import Problem, _forms, problem_type

FORMAT = 1
JsonSchema = dict[str, Any]


class ProblemDocument(Struct, frozen=True):
    """A declared no: its status, and the JSON Schema of its members."""

    status: int
    members: JsonSchema


class OperationDocument(Struct, frozen=True, omit_defaults=True):
    """An operation. A schema that is None: nothing travels. `ordered`, `keyed`: it has such a key."""

    request: JsonSchema | None = None
    reply: JsonSchema | None = None
    problems: dict[str, ProblemDocument] = {}  # by type urn
    timeout_s: float | None = None
    ttl_s: float | None = None
    effect: str = ""
    ordered: bool = False
    keyed: bool = False


class EventDocument(Struct, frozen=True, omit_defaults=True):
    """An event. `ordered`: it has an ordering key."""

    data: JsonSchema | None = None
    keep_s: float | None = None
    ordered: bool = False


class ContractDocument(Struct, frozen=True):
    """A contract. Only ever gains fields with defaults, as long as `format` is 1."""

    name: str
    operations: dict[str, OperationDocument]
    events: dict[str, EventDocument]
    format: int = FORMAT


def document_of(contract: type[Contract]) -> ContractDocument:
    """Describe a contract. Raises UsageError where a type of it isn't whole."""
    return ContractDocument(
        name_of(contract),
        {name: _operation(operation) for name, operation in operations_of(contract).items()},
        {name: _event(event) for name, event in events_of(contract).items()},
    )


def write_document(document: ContractDocument) -> bytes:
    """Give a document as indented JSON, the same for the same contract."""
    return msgspec.json.format(msgspec.json.encode(document, order="sorted"), indent=2) + b"\n"


def read_document(text: bytes, where: str) -> ContractDocument:
    """Read a document; `where` names its source in errors. Raises UsageError for what isn't one."""
    try:
        document = msgspec.json.decode(text, type=ContractDocument)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UsageError(
            f"{where} is no document of a contract: {error}. Make one by `ringpost contract export`."
        ) from None
    if document.format != FORMAT:
        raise UsageError(f"{where} has format {document.format}, this Ringpost reads {FORMAT}; install a newer one.")
    return document


def _operation(operation: Operation[Any, Any]) -> OperationDocument:
    return OperationDocument(
        None if operation.request.empty else operation.request.schema(),
        None if operation.reply.empty else operation.reply.schema(),
        {problem_type(operation.contract_name, one): _problem(one) for one in operation.raises},
        operation.timeout_s,
        operation.ttl_s,
        operation.effect or "",
        operation._line_key is not None,
        operation._dedup_key is not None,
    )


def _event(event: Event[Any]) -> EventDocument:
    return EventDocument(None if event.data.empty else event.data.schema(), event.keep_s, event._line_key is not None)


def _problem(problem: type[Problem]) -> ProblemDocument:
    required = {field.name for field in dataclasses.fields(problem) if _has_no_default(field)}
    forms = _forms(problem).items()
    members = msgspec.defstruct(
        problem.__name__,
        [(name, form) if name in required else (name, form, None) for name, form in forms],
        kw_only=True,
    )
    return ProblemDocument(problem.status, Codec(members).schema())


def _has_no_default(field: "dataclasses.Field[Any]") -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
