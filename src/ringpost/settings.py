"""Where everything is configured: `ringpost.toml` (found upwards), `RINGPOST_*`, arguments → one frozen object."""

import difflib
import math
import os
import re
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypedDict, cast

from msgspec import Struct
from msgspec.structs import fields

from ringpost.contract.errors import UsageError, listed
from ringpost.core.limit import Kind
from ringpost.core.policy import Figure, Policies, checked_figure
from ringpost.core.receipt import Level


class Settings(Struct, frozen=True, kw_only=True):
    """All that a process is told from outside. Durations are seconds, sizes bytes."""

    store: str | None = None  # URL; None: this process has no store
    outbox: str | None = None  # URL of the business database whose outbox table is relayed to the store
    http: str | None = "127.0.0.1:8000"
    http_given: bool = False  # the user named the address: a taken port is an error
    workers: int = 1
    addresses: Mapping[str, str] = {}  # contract → URL
    policies: Policies = {}  # operation, contract or "" → how calls are made
    durability: Level = "durable"
    listen_url: str | None = None  # of PostgreSQL, past a pooler
    advertise: str | None = None
    tls_cert: str | None = None
    tls_key: str | None = None
    lease_s: float = 30.0
    tx_hold_max_s: float = 0.25
    keep_bytes: int = 1 << 30
    depth_max: int = 1_000_000
    depth_bytes_max: int = 1 << 30
    request_bytes_max: int = 256 * 1024
    reply_bytes_max: int = 1024 * 1024
    header_bytes_max: int = 16 * 1024
    header_count_max: int = 100
    header_time_s: float = 5.0
    body_time_s: float = 30.0
    keep_alive_s: float = 15.0
    pool_idle_s: float = 10.0
    connections_max: int = 1024
    limiter: Kind = "aimd"
    limit_least: int = 4
    call_queue: int = 256
    call_timeout_s: float = 5.0
    call_timeout_max_s: float = 60.0
    shutdown_s: float = 28.0


FILE_NAME = "ringpost.toml"
PREFIX = "RINGPOST_"

# What a user writes → the field: lengths of time are in seconds everywhere, so their keys carry no unit.
KEYS = {name.removesuffix("_s"): name for name in Settings.__struct_fields__ if name != "http_given"}
_KINDS = {field.name: field.type for field in fields(Settings)}
_URLS = ("store", "outbox")
_PATHS = ("tls_cert", "tls_key")
_WORDS = {"durability": ("durable", "replicated", "buffered"), "limiter": ("aimd", "gradient", "fixed")}
_LEAST = {"lease_s": 1.0, "call_queue": 0}
_MOST = {"tx_hold_max_s": 5.0}  # renewals of leases wait as long
_OFF = ("", "none", "off")
_POLICY_NAME = re.compile(r"[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)?")
_EXAMPLES = {
    "store": '"sqlite:///ringpost.db"',
    "outbox": '"sqlite:///shop.db"',
    "http": '"127.0.0.1:8000"',
    "addresses": '{billing = "https://billing.example"}',
    "policies": "{attempts = 2, billing = {hedge = false}}",
    "durability": '"durable"',
    "listen_url": '"postgresql://user@host/database"',
    "advertise": '"http://10.0.0.7:8000"',
    "tls_cert": '"server.pem"',
    "tls_key": '"server.key"',
}


class Given(TypedDict, total=False):
    """What a program may say itself; it wins over the file and the environment."""

    store: str | None
    outbox: str
    http: str | None
    workers: int
    addresses: Mapping[str, str]
    policies: Mapping[str, object]
    durability: Level
    listen_url: str
    advertise: str
    tls_cert: str
    tls_key: str


def load(
    given: Given | None = None, *, folder: Path | None = None, environ: Mapping[str, str] | None = None
) -> Settings:
    """Read the settings: `ringpost.toml` of `folder` or the nearest one above, then `RINGPOST_*`, then `given`.

    A later one wins, key by key, and in `addresses` and `policies` name by name. Relative paths are relative to the
    file that was found, else to `folder`, whoever gave them: a program reaches the same store from wherever it is
    started. Raises UsageError naming the file or variable, and what to write.
    """
    start = Path.cwd() if folder is None else folder
    file = find_file(start)
    values: dict[str, Any] = {}
    if file is not None:
        _merge(values, _from_file(file))
    _merge(values, _from_environ(os.environ if environ is None else environ))
    _merge(values, _from_arguments(given or {}))
    beside = start if file is None else file.parent
    for name in _URLS:
        if values.get(name):
            values[name] = resolved(values[name], beside)
    for name in _PATHS:
        if values.get(name):
            values[name] = str(beside / Path(values[name]).expanduser())
    if ("tls_cert" in values) != ("tls_key" in values):
        raise UsageError("tls_cert and tls_key belong together: give both, or neither.")
    return Settings(http_given="http" in values, **values)


def find_file(start: Path) -> Path | None:
    """Find the `ringpost.toml` of a folder or of the nearest one above it."""
    start = start.resolve()
    for folder in (start, *start.parents):
        file = folder / FILE_NAME
        if file.is_file():
            return file
    return None


def resolved(store: str, beside: Path) -> str:
    """Give a store's URL with an absolute path, so that it means the same file in every process."""
    prefix = "sqlite:///"
    if not store.startswith(prefix) or store.startswith(prefix + "/"):
        return store
    path = store.removeprefix(prefix)
    return prefix + str((beside / Path(path).expanduser()).resolve()) if path else store


def _from_file(file: Path) -> dict[str, Any]:
    try:
        with file.open("rb") as stream:
            table = tomllib.load(stream)
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{file} is no TOML: {error}.") from error
    except OSError as error:
        raise UsageError(f"{file} can't be read: {error.strerror}.") from error
    return {_field(key, f"{file}: {key}"): _checked(key, value, f"{file}: {key}") for key, value in table.items()}


def _from_environ(environ: Mapping[str, str]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for variable in sorted(environ):
        if not variable.startswith(PREFIX):
            continue
        key = variable.removeprefix(PREFIX).lower()
        name = _field(key, variable, upper=True)
        values[name] = _checked(key, _read(name, environ[variable], variable), variable)
    return values


def _from_arguments(given: Given) -> dict[str, Any]:
    return {_field(key, key): _checked(key, value, key) for key, value in given.items()}


def _merge(values: dict[str, Any], later: dict[str, Any]) -> None:
    addresses = {**values.get("addresses", {}), **later.get("addresses", {})}
    policies = _joined(values.get("policies", {}), later.get("policies", {}))
    values.update(later)
    if addresses:
        values["addresses"] = addresses
    if policies:
        values["policies"] = policies


def _joined(policies: Policies, later: Policies) -> Policies:
    return {name: {**policies.get(name, {}), **later.get(name, {})} for name in {**policies, **later}}


def _field(key: str, where: str, *, upper: bool = False) -> str:
    """Give the name of the field that a key means."""
    if key in KEYS:
        return KEYS[key]
    near = difflib.get_close_matches(key, KEYS, 1)
    known = [PREFIX + name.upper() for name in KEYS] if upper else list(KEYS)
    if near:
        hint = f"Did you mean {PREFIX + near[0].upper() if upper else near[0]}?"
    else:
        hint = f"There are {listed(sorted(known))}."
    raise UsageError(f"{where} is no setting of Ringpost. {hint}")


def _read(name: str, text: str, variable: str) -> object:
    """Read the text of a variable as what its field takes."""
    kind = _KINDS[name]
    if name == "addresses":
        return _read_addresses(text, variable)
    if name == "policies":
        return _read_policies(text, variable)
    if kind in (int, float):
        try:
            return int(text) if kind is int else float(text)
        except ValueError:
            return text  # refused with its name
    return text


def _read_addresses(text: str, variable: str) -> dict[str, str]:
    addresses: dict[str, str] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        contract, equals, url = part.partition("=")
        if not equals or not contract.strip():
            raise UsageError(f"{variable}: write billing=https://…,mail=https://…, not {part!r}.")
        addresses[contract.strip()] = url.strip()
    return addresses


def _read_policies(text: str, variable: str) -> dict[str, Any]:
    """Read `attempts=2,billing.hedge=false,billing.charge.limit=8`: what comes after the last dot is the key."""
    policies: dict[str, Any] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        place, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals or not place:
            raise UsageError(f"{variable}: write attempts=2,billing.hedge=false,…, not {part!r}.")
        name, _, key = place.rpartition(".")
        (policies.setdefault(name, {}) if name else policies)[key] = _read_figure(value)
    return policies


def _read_figure(text: str) -> object:
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    return text  # refused with its name


def _checked(key: str, value: Any, where: str) -> Any:
    """Give the value of a field, refusing what isn't of its type or out of bounds."""
    name = KEYS[key]
    kind = _KINDS[name]
    if name == "addresses":
        return _checked_addresses(value, where)
    if name == "policies":
        return _checked_policies(value, where)
    if kind in (int, float):
        return _checked_number(name, value, where)
    if name in _WORDS:
        if value not in _WORDS[name]:
            raise UsageError(f"{where} is {listed(_WORDS[name])}, not {value!r}.")
        return value
    if value is None and name in ("http", "store"):
        return None
    if name == "http" and (value is False or (isinstance(value, str) and value.lower() in _OFF)):
        return None
    if not isinstance(value, str) or not value:
        raise UsageError(f"{where} takes a text such as {_EXAMPLES[name]}, not {value!r}.")
    if name in _URLS and ":" not in value:
        raise UsageError(f"{where} takes a URL such as {_EXAMPLES[name]}, not {value!r}.")
    return value


def _checked_number(name: str, value: Any, where: str) -> int | float:
    kind = _KINDS[name]
    right = isinstance(value, int) if kind is int else isinstance(value, int | float) and math.isfinite(value)
    if not right or isinstance(value, bool):
        what = "a whole number" if kind is int else "seconds as a number"
        raise UsageError(f"{where} takes {what} such as {getattr(Settings(), name)}, not {value!r}.")
    least = _LEAST.get(name, 1 if kind is int else 0.0)
    if value < least or (kind is float and value == 0):
        limit = f"at least {least:g}" if least or kind is int else "more than 0"
        raise UsageError(f"{where} must be {limit}, not {value!r}.")
    most = _MOST.get(name)
    if most is not None and value > most:
        raise UsageError(f"{where} must be at most {most:g}, not {value!r}.")
    return value if kind is int else float(value)


def _checked_addresses(value: Any, where: str) -> dict[str, str]:
    if not isinstance(value, Mapping):
        raise UsageError(f"{where} takes contract → URL, such as {_EXAMPLES['addresses']}, not {value!r}.")
    addresses: dict[str, str] = {}
    for contract, url in cast(Mapping[object, object], value).items():
        if not isinstance(contract, str) or not isinstance(url, str) or not url.startswith(("http://", "https://")):
            raise UsageError(f"{where}: the address of {contract} begins with http:// or https://, not {url!r}.")
        addresses[contract] = url
    return addresses


def origins(*, folder: Path | None = None, environ: Mapping[str, str] | None = None) -> dict[str, str]:
    """Say for each field that is set from outside who set it last: a file, or a variable. Of tables also for what is in
    them, by `addresses.contract` and `policies.name.field`. What isn't there has its default."""
    file = find_file(Path.cwd() if folder is None else folder)
    found: dict[str, str] = {}
    if file is not None:
        _note_origins(found, _from_file(file), lambda name: file.name)
    variables = _from_environ(os.environ if environ is None else environ)
    _note_origins(found, variables, lambda name: PREFIX + name.removesuffix("_s").upper())
    return found


def _note_origins(found: dict[str, str], values: Mapping[str, Any], place: Callable[[str], str]) -> None:
    for name, value in values.items():
        _note_origin(found, name, value, place(name))


def _note_origin(found: dict[str, str], name: str, value: object, place: str) -> None:
    found[name] = place
    if isinstance(value, Mapping):
        for key, inner in cast(Mapping[str, object], value).items():
            _note_origin(found, f"{name}.{key}", inner, place)


def _checked_policies(value: Any, where: str) -> Policies:
    """Give policies by name. What stands in `[policies]` itself holds for the process; a table in it for the contract
    or operation that it is named after, `[policies."billing.charge"]` and `[policies.billing.charge]` alike."""
    if not isinstance(value, Mapping):
        raise UsageError(f"{where} takes a table such as {_EXAMPLES['policies']}, not {value!r}.")
    policies: dict[str, dict[str, Figure]] = {}
    _add_policies(policies, "", cast(Mapping[str, object], value), where)
    return policies


def _add_policies(policies: dict[str, dict[str, Figure]], name: str, given: Mapping[str, object], where: str) -> None:
    for key, value in given.items():
        place = f"{where}: {key}"
        if isinstance(value, Mapping):
            inner = f"{name}.{key}" if name else key
            if not _POLICY_NAME.fullmatch(inner):
                raise UsageError(
                    f"{place} is neither a contract nor an operation: write [policies.billing] or "
                    '[policies."billing.charge"], as their names are on the wire.'
                )
            _add_policies(policies, inner, cast(Mapping[str, object], value), place)
        else:
            field, figure = checked_figure(key, value, place)
            policies.setdefault(name, {})[field] = figure
