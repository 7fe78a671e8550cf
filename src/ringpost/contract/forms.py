"""Type forms: what a request, a reply or an event may be, what its values must be, and how messages speak of it."""

import dataclasses
import inspect
import re
from collections.abc import Callable, Iterable
from enum import Enum
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, NewType, Union, cast, get_args, get_origin

import msgspec
import msgspec.inspect as shapes
from typing_extensions import TypeAliasType, is_typeddict

from ringpost.contract.errors import UsageError
from ringpost.contract.models import holds_model, is_model

_SCALARS: dict[object, tuple[type, ...]] = {
    None: (NoneType,),
    NoneType: (NoneType,),
    str: (str,),
    int: (int,),
    float: (float, int),
    bool: (bool,),
}
_AN = re.compile(r"(?i)[aio]|e(?!u)|u(?!ni|r|s|t)")  # an Order, a User
_HOW = "Make it a dataclass (or a msgspec Struct, an attrs class, a TypedDict, a pydantic model)."


def is_record(form: object) -> bool:
    """Say whether it is a class whose instances have fields: Struct, dataclass, attrs, NamedTuple, model."""
    if not isinstance(form, type):
        return False
    kind = cast("type[object]", form)
    return (
        dataclasses.is_dataclass(kind)
        or hasattr(kind, "__attrs_attrs__")
        or is_model(kind)
        or issubclass(kind, msgspec.Struct)
        or (issubclass(kind, tuple) and hasattr(cast(object, kind), "_fields"))
    )


def resolved(form: object) -> object:
    """Look through Annotated, NewType and type aliases."""
    while True:
        if get_origin(form) is Annotated:
            form = get_args(form)[0]
        elif isinstance(form, NewType):
            form = form.__supertype__
        elif isinstance(form, TypeAliasType):
            form = cast(object, form.__value__)
        else:
            return form


def members(form: object) -> tuple[object, ...]:
    """Give the members of a union; of anything else itself."""
    form = resolved(form)
    if get_origin(form) in (Union, UnionType):
        return tuple(inner for arg in get_args(form) for inner in members(arg))
    return (form,)


def accepted(form: object) -> tuple[type, ...]:
    """Give the classes that a value must be an instance of before it is written; `object`: any, reading decides.

    It is what stops a dict where a dataclass is due: both are the same JSON.
    """
    classes: list[type] = []
    for member in members(form):
        classes.extend(_accepted_member(member))
    return (object,) if object in classes else tuple(dict.fromkeys(classes))


def _accepted_member(form: object) -> tuple[type, ...]:
    if form is None or (isinstance(form, type) and form in _SCALARS):
        return _SCALARS[form]
    if get_origin(form) is Literal:
        return tuple(cast("type[object]", type(value)) for value in get_args(form))
    kind = get_origin(form) or form
    if is_typeddict(kind):
        return (dict,)
    if is_record(kind) or (isinstance(kind, type) and issubclass(kind, Enum)):
        return (cast(type, kind),)
    return (object,)


def shown(form: object) -> str:
    """Name a type form as a user writes it: `NewUser`, `Page[User] | None`."""
    if form is None or form is NoneType:
        return "None"
    if form is Any:
        return "Any"
    if get_origin(form) is Annotated:
        return shown(get_args(form)[0])
    if get_origin(form) in (Union, UnionType):
        return " | ".join(shown(arg) for arg in get_args(form))
    if get_origin(form) is Literal:
        return f"Literal[{', '.join(map(repr, get_args(form)))}]"
    args = get_args(form)
    name = getattr(get_origin(form) or form, "__name__", None) or repr(form)
    return f"{name}[{', '.join(shown(arg) for arg in args)}]" if args else str(name)


def article(name: str) -> str:
    """Put `a` or `an` before a name; `None`, `Any` and unions stand alone."""
    if name in ("None", "Any") or " | " in name:
        return name
    return f"{'an' if _AN.match(name) else 'a'} {name}"


def example(form: object) -> str:
    """Show how a value of the form is made: `NewUser(email=…, name=…)`. Empty where there is nothing to show."""
    kind = next((get_origin(member) or member for member in members(form) if member is not None), None)
    if not is_record(kind):
        return ""
    made = cast("Callable[..., object]", kind)
    names = [
        parameter.name
        for parameter in inspect.signature(made).parameters.values()
        if parameter.default is parameter.empty
        and parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
    ]
    fields = ", ".join(f"{name}=…" for name in names[:4]) + (", …" if len(names) > 4 else "")
    return f"{shown(kind)}({fields})"


def refuse_clearly_wrong(form: object, what: str) -> None:
    """Raise UsageError for what can't be a type of JSON; `what` says where it was written."""
    if holds_model(form):
        return
    for member in members(form):
        _refuse_member(member, what)
    try:
        _refuse_inner(_shapes_within(shapes.type_info(cast(Any, form))), what)
    except NameError:
        return  # A class further down in the module: it is looked at again when the first value comes.
    except TypeError as error:
        raise UsageError(_untranslatable(form, what, str(error))) from None


def _refuse_member(form: object, what: str) -> None:
    if isinstance(form, str):
        raise UsageError(f"{what} is the text {form!r}: write the type itself, without quotes.")
    if is_record(type(form)) and not isinstance(form, type):
        raise UsageError(f"{what} is a value of type {type(form).__name__}: write the type, {type(form).__name__}.")
    if isinstance(form, list | dict | tuple | set | int | float | bytes | bool):
        raise UsageError(
            f"{what} is {form!r}, which is no type. Write a type: a dataclass, `list[int]`, `str | None` …"
        )
    if inspect.isroutine(form):
        raise UsageError(f"{what} is the function {form.__name__}. Write the type that goes in or comes out.")


def _shapes_within(shape: shapes.Type) -> Iterable[shapes.Type]:
    """Give a shape and all in it, each once: types may refer to themselves."""
    seen: set[int] = set()
    todo: list[object] = [shape]
    while todo:
        found = todo.pop()
        if isinstance(found, tuple):
            todo.extend(cast("tuple[object, ...]", found))
        elif isinstance(found, shapes.Field):
            todo.append(found.type)
        elif isinstance(found, shapes.Type) and id(found) not in seen:
            seen.add(id(found))
            todo.extend(getattr(found, name) for name in found.__struct_fields__ if name not in ("cls", "default"))
            yield found


def _refuse_inner(found: Iterable[shapes.Type], what: str) -> None:
    for shape in found:
        if isinstance(shape, shapes.CustomType) and not is_model(shape.cls):
            raise UsageError(_unreadable(shape.cls, what))


def _unreadable(kind: type, what: str) -> str:
    if kind is object:
        return f"{what} says object. Say Any for any JSON, or better a type of its own."
    if issubclass(kind, BaseException):
        return f"{what} says {kind.__name__}, an exception. A declared no is a Problem and goes into raises=[…]."
    if kind.__module__.startswith("ringpost."):
        return f"{what} says {kind.__name__}, which isn't data. Write the type of what travels. {_HOW}"
    return f"{what} says {kind.__name__}, which can't be written as JSON. {_HOW}"


def _untranslatable(form: object, what: str, reason: str) -> str:
    if "Struct types must be tagged" in reason:
        return (
            f"{what} is {shown(form)}: JSON doesn't tell these Structs apart. Tag each of them:"
            f" class {_first_record(form)}(Struct, tag=True)."
        )
    if any(kind in reason for kind in ("dict-like type", "dataclass or attrs type", "custom type")):
        return (
            f"{what} is {shown(form)}: JSON doesn't tell these types apart. Make them msgspec Structs with a tag:"
            f" class {_first_record(form)}(Struct, tag=True)."
        )
    return f"{what} is {shown(form)}, which can't be written as JSON: {reason}."


def _first_record(form: object) -> str:
    return next((shown(member) for member in members(form) if is_record(member)), "Order")
