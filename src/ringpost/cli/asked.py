"""What is asked for on a command line: requests, names, lengths of time, and the options that several commands have."""

import re
import sys
from datetime import datetime
from math import isnan
from pathlib import Path
from typing import Any

import click
import msgspec

from ringpost.contract.depth import DEPTH_MAX, too_deep
from ringpost.contract.errors import UsageError
from ringpost.settings import Settings, load
from ringpost.wire.headers import BadHeader, length_s

_NAME = re.compile(r"[a-z][a-z0-9_]{0,40}\.[a-z][a-z0-9_]{0,40}")
_DAY_S = 86_400.0
RATE_MAX = 1_000_000.0


class Length(click.ParamType[float]):
    """A length of time in seconds: `90`, `500ms`, `10s`, `5m`, `2h`, `3d`."""

    name = "time"

    def __init__(self, *, some: bool = False) -> None:
        """`some`: more than none at all."""
        self._some = some

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, int | float):
            return float(value)
        found = seconds_of(str(value))
        if found is None:
            self.fail(f"{value!r} is no length of time; write 90, 500ms, 10s, 5m, 2h or 3d", param, ctx)
        if self._some and not found:
            self.fail(f"{value!r} is over at once; write 500ms, 10s, 5m, 2h or 3d", param, ctx)
        return found


class Rate(click.FloatRange):
    """So many a second; what is no number (`nan`) or has no end isn't one."""

    def __init__(self, *, none: bool = False) -> None:
        """`none`: it may be 0."""
        super().__init__(min=0, min_open=not none, max=RATE_MAX)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        found: float = super().convert(value, param, ctx)
        if isnan(found):
            self.fail(f"{value!r} is no number", param, ctx)
        return found


class When(click.ParamType["float | datetime"]):
    """A length of time from now, or an instant with its zone: `10m`, `2026-12-24T18:00:00Z`."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float | datetime:
        found: float | datetime | None = seconds_of(str(value))
        if found is None:
            try:
                found = datetime.fromisoformat(str(value))
            except ValueError:
                found = None
        if found is None or (isinstance(found, datetime) and found.tzinfo is None):
            self.fail(f"{value!r} is no time; write 10m, 2h, or an instant such as 2026-12-24T18:00:00Z", param, ctx)
        return found


LENGTH = Length()
SOME_LENGTH = Length(some=True)
WHEN = When()

store_option = click.option(
    "--store", metavar="URL", help="The store, as sqlite:///ringpost.db (default: from ringpost.toml)."
)
outbox_option = click.option(
    "--outbox", metavar="URL", help="The business database, as sqlite:///shop.db (default: from ringpost.toml)."
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON for machines.")
request_argument = click.argument("request", required=False, metavar="[JSON|@FILE|-]")


def settings_of(store: str | None) -> Settings:
    """Read the settings, with the store of the command line if it names one."""
    return load({} if store is None else {"store": store})


def checked_name(name: str, what: str) -> tuple[str, str]:
    """Take `contract.operation` apart."""
    if _NAME.fullmatch(name) is None:
        raise UsageError(f"{name!r} is no {what}: names are contract.{what}, as in accounts.register.")
    contract, _, short = name.partition(".")
    return contract, short


def body_of(request: str | None) -> bytes:
    """Read a request: JSON, `@file`, or `-` for standard input; nothing is an empty body."""
    if request is None:
        return b""
    if request == "-":
        where, body = "standard input", sys.stdin.buffer.read()
    elif request.startswith("@"):
        where = request[1:]
        try:
            body = Path(where).read_bytes()
        except OSError as error:
            raise UsageError(f"{where or 'the file'} can't be read: {error.strerror}.") from error
    else:
        where, body = "the request", request.encode("utf-8", "surrogateescape")
    body = body.strip()
    if not body:
        return b""
    if too_deep(body):
        raise UsageError(f"{where} nests deeper than {DEPTH_MAX}.")
    try:
        body.decode()
        msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        hint = "" if where != "the request" else """ Quote it for the shell, as in '{"email": "ada@example.com"}'."""
        raise UsageError(f"{where} is no JSON: {str(error).rstrip('.')}.{hint}") from None
    return body


def seconds_of(text: str) -> float | None:
    """Read a length of time; a plain number is seconds. None for anything else."""
    try:
        if text.endswith("d"):
            return length_s(f"{text[:-1]}s") * _DAY_S
        return length_s(f"{text}s" if text[-1:].isdigit() else text)
    except BadHeader:
        return None
