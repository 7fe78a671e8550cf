"""Secrets: which parts of a document are `Secret`, and the document without them. Only displays use it."""

from collections.abc import Iterable, Sequence
from typing import Annotated, Any, cast, get_args, get_origin

import msgspec
import msgspec.inspect as shapes

from ringpost.contract.forms import is_record, members
from ringpost.contract.models import is_model
from ringpost.contract.pointer import pointer
from ringpost.contract.vocabulary import SECRET

Shape = shapes.Type
MASK = "***"
_ENTRIES = "*"
_LISTS = (shapes.ListType, shapes.SetType, shapes.FrozenSetType, shapes.VarTupleType)
_OBJECTS = (shapes.StructType, shapes.DataclassType, shapes.TypedDictType)


def shapes_of(form: object) -> list[Shape]:
    """Give the shapes that a value of the form may have. A union that only pydantic can read is taken apart here."""
    try:
        return [shapes.type_info(cast(Any, form))]
    except TypeError:
        parts = [part for member in members(form) for part in (member, *get_args(member))]
        return [shapes.type_info(cast(Any, part)) for part in parts if is_record(part)]


def pointers(whole: Sequence[Shape]) -> tuple[str, ...]:
    """Give JSON Pointers of all Secrets, `*` for every entry. A type that holds itself is followed once."""
    found: dict[str, None] = {}
    todo: list[tuple[tuple[str, ...], Shape, frozenset[int]]] = [((), shape, frozenset()) for shape in whole]
    while todo:
        place, shape, above = todo.pop()
        for option in _options([shape]):
            if _is_secret(option):
                found[pointer(place)] = None
            elif id(option) not in above:
                todo.extend(
                    ((*place, token), part, above | {id(option)}) for token, part in reversed(list(_children(option)))
                )
    return tuple(found)


def redacted(body: bytes, whole: Sequence[Shape]) -> bytes:
    """Give the body with every Secret masked; what isn't JSON is masked whole if there are Secrets at all."""
    if not pointers(whole):
        return body
    try:
        document = cast(object, msgspec.json.decode(body))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        document = MASK
    return msgspec.json.encode(_masked(document, whole))


def _masked(value: object, whole: Sequence[Shape]) -> object:
    options = list(_options(whole))
    if any(_is_secret(option) for option in options):
        return MASK
    if isinstance(value, dict):
        fields = cast("dict[str, object]", value)
        return {name: _masked(part, _parts(options, name)) for name, part in fields.items()}
    if isinstance(value, list):
        items = cast("list[object]", value)
        return [_masked(part, _parts(options, str(index))) for index, part in enumerate(items)]
    return value


def _parts(options: Iterable[Shape], token: str) -> list[Shape]:
    """Give every shape that the part may have: of a union, whichever member it is, a Secret is masked."""
    return [part for option in options for name, part in _children(option) if name in (token, _ENTRIES)]


def _options(whole: Iterable[Shape]) -> Iterable[Shape]:
    for shape in whole:
        if isinstance(shape, shapes.UnionType):
            yield from _options(shape.types)
        elif isinstance(shape, shapes.Metadata) and not _is_secret(shape):
            yield from _options([shape.type])
        else:
            yield shape


def _is_secret(shape: Shape) -> bool:
    extra: object = cast(Any, shape).extra if isinstance(shape, shapes.Metadata) else None
    return extra == {"ringpost": SECRET}


def _children(shape: Shape) -> Iterable[tuple[str, Shape]]:
    if isinstance(shape, _OBJECTS):
        in_order = isinstance(shape, shapes.StructType) and shape.array_like
        for index, field in enumerate(shape.fields):
            yield (str(index) if in_order else field.encode_name, field.type)
    elif isinstance(shape, shapes.NamedTupleType):
        yield from ((str(index), field.type) for index, field in enumerate(shape.fields))
    elif isinstance(shape, shapes.TupleType):
        yield from ((str(index), item) for index, item in enumerate(shape.item_types))
    elif isinstance(shape, _LISTS):
        yield (_ENTRIES, shape.item_type)
    elif isinstance(shape, shapes.DictType):
        yield (_ENTRIES, shape.value_type)
    elif isinstance(shape, shapes.CustomType) and is_model(shape.cls):
        yield from _model_children(shape.cls)


def _model_children(model: type) -> Iterable[tuple[str, Shape]]:
    fields = getattr(model, "model_fields", None) or getattr(model, "__pydantic_fields__", {})
    for name, field in fields.items():
        annotation = field.annotation
        for extra in field.metadata:
            if isinstance(extra, msgspec.Meta):
                annotation = Annotated[annotation, extra]
        wire = field.serialization_alias or field.alias or name
        for shape in _of_annotation(annotation):
            yield (wire, shape)


def _of_annotation(annotation: object) -> list[Shape]:
    if get_origin(annotation) is Annotated:
        return [shapes.type_info(cast(Any, annotation))]
    try:
        return shapes_of(annotation)
    except (TypeError, NameError):
        return []
