"""What people and machines read: tables with rich, JSON with `--json`, times and ages in words."""

import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import click
import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

_WIDE = 200


def console() -> Console:
    """Give a console on standard output; without a terminal it is wide enough not to cut words."""
    return Console(width=None if sys.stdout.isatty() else _WIDE, highlight=False, markup=False)


def json_of(body: bytes) -> object:
    """Give a body as a JSON value: what it says, its text where it isn't JSON, None for nothing."""
    if not body:
        return None
    try:
        return msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return body.decode("utf-8", "backslashreplace")


def print_json(value: Any) -> None:
    """Print a value as indented JSON."""
    click.echo(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())


def print_body(body: bytes) -> None:
    """Print a JSON body indented, anything else as it is; nothing for nothing."""
    if not body:
        return
    try:
        click.echo(msgspec.json.format(body, indent=2).decode())
    except (msgspec.DecodeError, UnicodeDecodeError):
        click.echo(plain(body.decode("utf-8", "backslashreplace")))


def plain(text: str) -> str:
    """Give text that others wrote without what would steer a terminal: control characters are shown, not sent."""
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() or character in "\n\t" else character.encode("unicode_escape").decode()
        for character in text
    )


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]], *, empty: str) -> None:
    """Print a table, or the sentence that says why there is none. A column name ending in `#` is right-aligned."""
    if not rows:
        click.echo(empty)
        return
    console().print(table(title, columns, rows))


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> Table:
    """Build a table of cells that are never read as markup. Names that are too long are folded; no number and no id is
    cut, because people copy them."""
    made = Table(title=title or None, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for name in columns:
        is_number = name.endswith("#")
        made.add_column(
            name.removesuffix("#"),
            justify="right" if is_number else "left",
            no_wrap=is_number or name == "id",
            overflow="fold",
        )
    for row in rows:
        made.add_row(*(cell if isinstance(cell, Text) else Text(plain(str(cell))) for cell in row))
    return made


def age(seconds: float | None) -> str:
    """Say a length of time as people do: `3 s`, `4 min`, `2 h`, `5 d`."""
    if seconds is None:
        return "–"
    seconds = max(0.0, seconds)
    if seconds < 10:
        return f"{seconds:.1f} s"
    for limit, unit, length in ((120, "s", 1), (7200, "min", 60), (172_800, "h", 3600)):
        if seconds < limit:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds / 86_400:.0f} d"


def instant(at_ms: int | None) -> str | None:
    """Give Unix milliseconds as an RFC 3339 instant in UTC."""
    if at_ms is None:
        return None
    return datetime.fromtimestamp(at_ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def by(who: str, why: str) -> str:
    """Say who did something, and why if they said so."""
    return f"by {who or 'somebody'}{f': {why}' if why else ''}"
