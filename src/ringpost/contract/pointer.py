"""Where in a document an error is, as a JSON Pointer (RFC 6901).

msgspec names fields and indexes (`$.a[0].b`) but not which entry of a dict is wrong (`$.a[...]`, "`key` in `$.a`").
That is found by decoding again with fewer entries: the first that is wrong is the shortest prefix that fails in the
same words. All of this runs only once something is wrong.
"""

import re
from collections.abc import Callable, Sequence
from typing import Any, cast

import msgspec

_PLACE = re.compile(r"(?s)(?P<what>.*?)(?: - at (?P<key>`key` in )?`(?P<path>\$[^`]*)`)?")
_FIELD = re.compile(r"Object (?P<kind>missing required|contains unknown) field `(?P<name>.*)`")
_INDEX = re.compile(r"\[(\d+)\]")
_ELLIPSIS = "[...]"

Read = Callable[[bytes], object]
Token = str | int


def pointer(tokens: Sequence[Token]) -> str:
    """Write a JSON Pointer: `/items/0/price`; nothing for the whole document."""
    return "".join("/" + str(token).replace("~", "~0").replace("/", "~1") for token in tokens)


def locate(error: msgspec.ValidationError, document: object, read: Read) -> tuple[list[Token], str]:
    """Give the place that msgspec complains of and what is wrong there, without the path. Uses the document up."""
    text = str(error)
    place = _PLACE.fullmatch(text)
    if place is None:
        return [], _lowered(text)
    tokens, node = _Walk(document, text, read).follow(place["path"] or "$", ends_in_key=place["key"] is not None)
    what = place["what"]
    field = _FIELD.fullmatch(what)
    if field is not None:
        tokens.append(field["name"])
        what = "this field is required and missing" if field["kind"].startswith("missing") else "no such field"
    loc = getattr(error.__cause__, "loc", None)  # A model of pydantic inside: it knows the way from here.
    if loc is not None:
        tokens.extend(existing(loc, node))
    return tokens, _lowered(what)


def existing(loc: Sequence[Token], document: object) -> list[Token]:
    """Keep of pydantic's location what is in the document: it also names the branches of unions that were tried."""
    tokens: list[Token] = []
    node = document
    for position, token in enumerate(loc):
        if isinstance(node, dict):
            fields = cast("dict[str, object]", node)
            if str(token) in fields:
                node = fields[str(token)]
            elif position < len(loc) - 1:
                continue
            tokens.append(token)
        elif isinstance(node, list) and isinstance(token, int) and token < len(cast("list[object]", node)):
            node = cast("list[object]", node)[token]
            tokens.append(token)
    return tokens


class _Walk:
    """Follow a path of msgspec through the document that it was said of."""

    def __init__(self, document: object, text: str, read: Read) -> None:
        self.document = document
        self.text = text
        self.read = read

    def follow(self, path: str, *, ends_in_key: bool) -> tuple[list[Token], object]:
        tokens: list[Token] = []
        node: Any = self.document
        rest = path[1:]
        while rest:
            if rest.startswith(_ELLIPSIS):
                token: Token | None = self._wrong_entry(node)
                rest = rest[len(_ELLIPSIS) :]
            elif (index := _INDEX.match(rest)) is not None:
                token = int(index[1])
                rest = rest[index.end() :]
            else:
                token = _field_at(node, rest)
                rest = rest[1 + len(token) :]
            if token is None:
                return tokens, None
            tokens.append(token)
            node = _child(node, token)
        if ends_in_key and (key := self._wrong_entry(node)) is not None:
            tokens.append(key)
        return tokens, node

    def _wrong_entry(self, node: object) -> str | None:
        """Find the entry of a dict that the error is of, and leave only that one, for the steps after this."""
        if not isinstance(node, dict):
            return None
        entries = cast("dict[str, object]", node)
        everything = list(entries.items())
        low, high = 1, len(everything)
        while low < high:
            middle = (low + high) // 2
            _only(entries, everything[:middle])
            if self._fails_alike():
                high = middle
            else:
                low = middle + 1
        wrong = everything[low - 1]
        _only(entries, [wrong])
        return wrong[0]

    def _fails_alike(self) -> bool:
        try:
            self.read(msgspec.json.encode(self.document))
        except Exception as error:  # noqa: BLE001 (the reader's errors are what is looked at here)
            return str(error) == self.text
        return False


def _only(entries: dict[str, object], kept: list[tuple[str, object]]) -> None:
    entries.clear()
    entries.update(kept)


def _field_at(node: object, rest: str) -> str:
    """Take the longest field of the object that the path goes on with: names may contain dots and brackets."""
    fits = [
        name
        for name in (cast("dict[str, object]", node) if isinstance(node, dict) else ())
        if rest.startswith("." + name) and rest[1 + len(name) : 2 + len(name)] in ("", ".", "[")
    ]
    return max(fits, key=len) if fits else re.split(r"[.\[]", rest[1:], maxsplit=1)[0]


def _child(node: object, token: Token) -> object:
    if isinstance(node, dict):
        return cast("dict[str, object]", node).get(str(token))
    if isinstance(node, list) and isinstance(token, int):
        items = cast("list[object]", node)
        return items[token] if token < len(items) else None
    return None


def _lowered(text: str) -> str:
    return text[:1].lower() + text[1:]


def unwritable(value: object, write: Callable[[Any], bytes]) -> list[Token]:
    """Find the innermost part of a value that can't be written as JSON."""
    tokens: list[Token] = []
    for _ in range(64):  # A value that holds itself has no innermost part.
        for token, part in _parts(value):
            if not _writes(part, write):
                tokens.append(token)
                value = part
                break
        else:
            break
    return tokens


def _writes(value: object, write: Callable[[Any], bytes]) -> bool:
    try:
        write(value)
    except Exception:  # noqa: BLE001 (whatever the reason, it can't be written)
        return False
    return True


def _parts(value: object) -> list[tuple[Token, object]]:
    if isinstance(value, dict):
        return [(str(key), part) for key, part in cast("dict[object, object]", value).items()]
    if isinstance(value, list | tuple):
        return list(enumerate(cast("Sequence[object]", value)))
    if isinstance(value, msgspec.Struct):
        fields = zip(value.__struct_encode_fields__, value.__struct_fields__, strict=True)
        return [(wire, getattr(value, name)) for wire, name in fields]
    kind = cast(Any, type(value))
    names: list[str] = list(getattr(kind, "__dataclass_fields__", ()))
    names = names or [field.name for field in getattr(kind, "__attrs_attrs__", ())]
    return [(name, getattr(value, name)) for name in names if hasattr(value, name)]
