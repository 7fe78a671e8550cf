"""Whether everything that one JSON Schema lets be written is read by another; what isn't, and where.

A writer is taken to write the properties that its schema names and no others, as our types do. Where a schema says what
isn't known here, only the same words on both sides count as read: a doubt is reported, never passed over.

Not to be seen in a schema, and so not here: that a text must be an instant without a stated zone (`datetime`), and what
the keys of a dict must look like.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any, cast

from msgspec import Struct

from ringpost.contract.pointer import pointer

Schema = Mapping[str, Any]
Place = tuple[str, ...]

_DEPTH_MAX = 64
_ANNOTATIONS = frozenset(
    {"title", "description", "default", "examples", "deprecated", "discriminator", "readOnly", "writeOnly", "$comment"}
    | {"$defs", "uniqueItems"}  # a set drops what it has already
)
_UNCHECKED_FORMATS = frozenset({"password"})
_STRUCTURE = frozenset({"type", "enum", "const", "properties", "required", "additionalProperties", "items"}) | {
    "prefixItems"
}
_AT_LEAST = ("minimum", "minLength", "minItems", "minProperties")
_AT_MOST = ("maximum", "maxLength", "maxItems", "maxProperties")
_HOLDS_FOR: Mapping[str, tuple[str, ...]] = {
    **dict.fromkeys(("minLength", "maxLength", "pattern", "format", "contentEncoding"), ("string",)),
    **dict.fromkeys(("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"), ("integer", "number")),
    **dict.fromkeys(("minItems", "maxItems"), ("array",)),
    **dict.fromkeys(("minProperties", "maxProperties"), ("object",)),
}
_TYPES: Mapping[type, str] = {bool: "boolean", int: "integer", float: "number", str: "string", type(None): "null"}


class Unread(Struct, frozen=True):
    """Something that may be written and isn't read. `at`: a JSON Pointer, `*` for every entry."""

    at: str
    why: str


def unread(written: Schema, read: Schema) -> list[Unread]:
    """Give what may be written by the one schema and isn't read by the other; nothing: all of it is read."""
    return _Comparison(written, read).compare(written, read, ())


class _Comparison:
    def __init__(self, written: Schema, read: Schema) -> None:
        self._written = written
        self._read = read
        self._under_way: set[tuple[int, int]] = set()  # types that hold themselves: what is asked already, holds

    def compare(self, written: Schema | bool, read: Schema | bool, place: Place) -> list[Unread]:
        if written is False:
            return []
        if read is False:
            return [_at(place, "it isn't read at all")]
        out, into = _resolved(written, self._written), _resolved(read, self._read)
        if not _said(into):
            return []
        pair = (id(out), id(into))
        if pair in self._under_way:
            return []
        if len(place) > _DEPTH_MAX:
            return [_at(place, "it nests too deeply to be judged")]
        self._under_way.add(pair)
        try:
            return self._compare_choices(out, into, place)
        finally:
            self._under_way.discard(pair)

    def _compare_choices(self, out: Schema, into: Schema, place: Place) -> list[Unread]:
        readers = list(_choices(into, self._read))
        found: list[Unread] = []
        for choice in _choices(out, self._written):
            tries = [self._compare_one(choice, reader, place) for reader in readers]
            if all(tries):
                # The nearest of several says most: the one of the same type, else the one that lacks least.
                nearest = min(range(len(tries)), key=lambda at: (not _alike(choice, readers[at]), len(tries[at])))
                found += tries[nearest]
        return found

    def _compare_one(self, out: Schema, into: Schema, place: Place) -> list[Unread]:
        if not _said(into):
            return []
        values = _values(out)
        if values is not None:
            return [one for value in values for one in self._compare_value(value, into, place)]
        known = _values(into)
        if known is not None:
            return [_at(place, f"anything of its type may be written, and only {_listed(known)} is read")]
        wanted = into.get("type")
        given = out.get("type")
        if wanted is not None and given != wanted and (given, wanted) != ("integer", "number"):
            return [_at(place, f"{given or 'anything'} is written, and {wanted} is read")]
        found = [_at(place, why) for why in _beyond(out, into)]
        if given == "object":
            found += self._compare_objects(out, into, place)
        elif given == "array":
            found += self._compare_arrays(out, into, place)
        return found

    def _compare_value(self, value: Any, into: Schema, place: Place) -> list[Unread]:
        known = _values(into)
        if known is not None:
            same = any(type(one) is type(value) and one == value for one in known)
            return [] if same else [_at(place, f"{value!r} may be written, and only {_listed(known)} is read")]
        narrow: dict[str, Any] = {"type": _TYPES.get(cast("type[object]", type(value)), "object")}
        if isinstance(value, str):
            narrow |= {"minLength": len(value), "maxLength": len(value)}
            pattern = into.get("pattern")
            if isinstance(pattern, str) and re.search(pattern, value):
                narrow["pattern"] = pattern
        elif isinstance(value, int | float):
            narrow |= {"minimum": value, "maximum": value}
        return self._compare_one(narrow, into, place)

    def _compare_objects(self, out: Schema, into: Schema, place: Place) -> list[Unread]:
        written = cast("dict[str, Schema]", out.get("properties", {}))
        read = cast("dict[str, Schema]", into.get("properties", {}))
        always = set(cast("list[str]", out.get("required", [])))
        found: list[Unread] = []
        for name in cast("list[str]", into.get("required", [])):
            if name not in always:
                how = "may be left out" if name in written else "isn't written"
                found.append(_at((*place, name), f"it {how}, and must be there to be read"))
        others: Schema | bool = into.get("additionalProperties", True)
        for name, schema in written.items():
            if name in read:
                found += self.compare(schema, read[name], (*place, name))
            elif others is False:
                found.append(_at((*place, name), "it is written, and fields that aren't known are refused"))
            else:
                found += self.compare(schema, others, (*place, name))
        found += self._compare_other_names(out, into, place)
        return found

    def _compare_other_names(self, out: Schema, into: Schema, place: Place) -> list[Unread]:
        """Compare what stands under names that the writer's schema doesn't list, as in a dict."""
        others: Schema | bool = out.get("additionalProperties", "properties" not in out)
        if others is False:
            return []
        written = cast("dict[str, Schema]", out.get("properties", {}))
        found = self.compare(others, into.get("additionalProperties", True), (*place, "*"))
        for name, schema in cast("dict[str, Schema]", into.get("properties", {})).items():
            if name not in written:
                found += self.compare(others, schema, (*place, name))
        return found

    def _compare_arrays(self, out: Schema, into: Schema, place: Place) -> list[Unread]:
        first_out = cast("list[Schema]", out.get("prefixItems", []))
        first_in = cast("list[Schema]", into.get("prefixItems", []))
        rest_out: Schema | bool = out.get("items", not first_out)
        rest_in: Schema | bool = into.get("items", True)
        found: list[Unread] = []
        for index in range(max(len(first_out), len(first_in))):
            written = first_out[index] if index < len(first_out) else rest_out
            read = first_in[index] if index < len(first_in) else rest_in
            found += self.compare(written, read, (*place, str(index)))
        return found + self.compare(rest_out, rest_in, (*place, "*"))


def _resolved(schema: Schema | bool, root: Schema) -> Schema:
    """Follow references to what they mean."""
    if isinstance(schema, bool):
        return {}
    for _ in range(_DEPTH_MAX):
        inner = schema.get("$ref")
        if inner is None:
            parts = schema.get("allOf", [])
            if len(parts) != 1:
                return schema
            target = cast(Schema, parts[0])
        else:
            target = cast(Schema, root.get("$defs", {}).get(str(inner).rpartition("/")[2], {}))
        beside = {word: said for word, said in schema.items() if word not in _ANNOTATIONS | {"$ref", "allOf"}}
        schema = {**target, **beside} if beside else target
    return schema


def _choices(schema: Schema, root: Schema) -> Iterable[Schema]:
    """Give the schemas of which one must fit."""
    options = schema.get("anyOf", schema.get("oneOf"))
    kinds = schema.get("type")
    if options is not None:
        beside = {word: said for word, said in schema.items() if word not in _ANNOTATIONS | {"anyOf", "oneOf"}}
        for option in options:  # what is said beside them holds for each
            yield from _choices({**_resolved(option, root), **beside}, root)
    elif isinstance(kinds, list):
        for kind in cast("list[str]", kinds):
            yield {**schema, "type": kind}
    else:
        yield schema


def _said(schema: Schema) -> bool:
    """Say whether a schema asks for anything."""
    return any(word not in _ANNOTATIONS for word in schema)


def _values(schema: Schema) -> list[Any] | None:
    if "const" in schema:
        return [schema["const"]]
    return cast("list[Any] | None", schema.get("enum"))


def _alike(out: Schema, into: Schema) -> bool:
    return out.get("type") == into.get("type") and out.get("title") == into.get("title")


def _beyond(out: Schema, into: Schema) -> list[str]:
    """Say where what is written goes beyond the bounds of what is read."""
    found: list[str] = []
    for word, limit in into.items():
        if word in _ANNOTATIONS or word in _STRUCTURE or (word == "format" and limit in _UNCHECKED_FORMATS):
            continue
        if out.get("type") not in _HOLDS_FOR.get(word, (out.get("type"),)):
            continue  # it says nothing of such values
        if word in ("exclusiveMinimum", "exclusiveMaximum", *_AT_LEAST, *_AT_MOST):
            if not _within(out, word, limit):
                found.append(f"it isn't held to {word} {limit}, which is read alone")
        elif out.get(word) != limit:
            found.append(f"it isn't held to {word} {limit!r}, as what is read must be")
    return found


def _within(out: Schema, word: str, limit: Any) -> bool:
    """Say whether the writer's bounds are as narrow as one of the reader's."""
    if word.startswith("min") and limit == 0 and word != "minimum":
        return True
    lower = word in (*_AT_LEAST, "exclusiveMinimum")
    exclusive = word.startswith("exclusive")
    plain_word = ("minimum" if lower else "maximum") if exclusive else word
    plain = out.get(plain_word)
    if plain is not None:
        past = (limit - plain) if lower else (plain - limit)
        if past < 0 or (past == 0 and not exclusive):
            return True
    strict = out.get("exclusiveMinimum" if lower else "exclusiveMaximum") if "imum" in word else None
    return strict is not None and ((strict >= limit) if lower else (strict <= limit))


def _listed(values: list[Any]) -> str:
    shown = ", ".join(repr(value) for value in values[:5])
    return f"{shown} …" if len(values) > 5 else shown


def _at(place: Place, why: str) -> Unread:
    return Unread(pointer(place), why)
