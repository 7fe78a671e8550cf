"""Models of pydantic, where pydantic is installed. Nothing here imports it: whoever has a model has imported it."""

import sys
from collections.abc import Callable
from typing import Any, cast, get_args, get_origin

import msgspec

from ringpost.contract.pointer import Token


class ModelMismatch(ValueError):
    """Carry what pydantic found through msgspec, which knows where the model is."""

    def __init__(self, detail: str, loc: tuple[Token, ...]) -> None:
        super().__init__(detail)
        self.loc = loc


def is_model(form: object) -> bool:
    """Say whether it is a class of pydantic's: a model or a pydantic dataclass."""
    pydantic = cast(Any, sys.modules.get("pydantic"))
    if pydantic is None or not isinstance(form, type):
        return False
    return issubclass(form, pydantic.BaseModel) or "__pydantic_validator__" in form.__dict__


def holds_model(form: object) -> bool:
    """Say whether the form is a model, or a union or collection of some: then pydantic reads and writes the whole."""
    if is_model(form):
        return True
    origin = get_origin(form)
    if origin is None or (isinstance(origin, type) and hasattr(origin, "__annotations__")):
        return False  # A generic record reads and writes the models in it field by field.
    return any(holds_model(arg) for arg in get_args(form))


def adapter(form: object) -> Any:
    """Make pydantic's reader and writer of any form."""
    return cast(Any, sys.modules["pydantic"]).TypeAdapter(form)


def reader(form: object) -> Callable[[bytes], Any]:
    """Give what reads JSON into the form."""
    return cast("Callable[[bytes], Any]", adapter(form).validate_json)


def writer(form: object) -> Callable[[Any], bytes]:
    """Give what writes the form as JSON. Wrong values aren't warned of: what was written is read again."""
    dump = adapter(form).dump_json

    def write(value: Any) -> bytes:
        return cast(bytes, dump(value, by_alias=True, warnings=False))

    return write


def model_schema(form: object) -> dict[str, Any]:
    """Give the JSON Schema of the form, its parts under `$defs`."""
    return cast("dict[str, Any]", adapter(form).json_schema(by_alias=True))


def write_model(value: object) -> object:
    """Write a model inside another type (msgspec's `enc_hook`)."""
    if is_model(type(value)):
        serializer = cast(Any, type(value)).__pydantic_serializer__
        return msgspec.Raw(serializer.to_json(value, by_alias=True, warnings=False))
    raise TypeError(f"a {type(value).__name__} can't be written as JSON")


def read_model(form: type, value: object) -> object:
    """Read a model inside another type (msgspec's `dec_hook`), by pydantic's rules for JSON."""
    if not is_model(form):
        raise TypeError(f"a {form.__name__} can't be read from JSON")
    try:
        return cast(object, cast(Any, form).__pydantic_validator__.validate_json(msgspec.json.encode(value)))
    except ValueError as error:
        loc, detail = mismatch(error)
        raise ModelMismatch(detail, loc) from None


def mismatch(error: ValueError) -> tuple[tuple[Token, ...], str]:
    """Give pydantic's first complaint: its location and its words."""
    errors = getattr(error, "errors", None)
    if errors is None:
        return (), str(error)
    first = errors(include_url=False, include_context=False, include_input=False)[0]
    return tuple(first["loc"]), cast(str, first["msg"])
