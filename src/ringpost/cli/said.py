"""Say an outcome: the reply on standard output, a no as one line on standard error, and the exit code of either."""

from typing import Any, Final, cast

import click
import msgspec

from ringpost.cli.output import plain, print_body
from ringpost.contract.problem import PROBLEM_URN
from ringpost.core.message import Answer

# Exit codes of our own problems; every other answer that isn't a reply is a no.
_WRONG: Final = 2
_NOBODY: Final = 3
_STORE: Final = 4
_CODES: Final = {
    "invalid": _WRONG,
    "not_found": _WRONG,
    "method_not_allowed": _WRONG,
    "too_large": _WRONG,
    "unsupported_media_type": _WRONG,
    "key_reused": _WRONG,
    "mismatch": _WRONG,
    "unavailable": _NOBODY,
    "overloaded": _NOBODY,
    "maintenance": _NOBODY,
    "deadline_exceeded": _NOBODY,
    "wrong_store": _NOBODY,
    "wrong_instance": _NOBODY,
    "store_full": _STORE,
}
_STATUSES: Final = {400: _WRONG, 413: _WRONG, 415: _WRONG, 429: _NOBODY, 502: _NOBODY, 503: _NOBODY, 504: _NOBODY}
_COMMON: Final = frozenset({"type", "title", "status", "code", "detail", "operation", "instance", "errors"})


def say(name: str, answer: Answer, *, as_json: bool) -> int:
    """Print an answer and give its exit code. With `as_json` a no is printed whole, as the problem that it is."""
    if 200 <= answer.status < 300:
        print_body(answer.body)
        if not answer.body:
            if as_json:
                click.echo("null")
            else:
                click.echo(f"{name} is done; it answers nothing.", err=True)
        return 0
    if as_json:
        print_body(answer.body)
    click.echo(f"ringpost: {plain(told(name, answer))}", err=True)
    return code_of(answer)


def code_of(answer: Answer) -> int:
    """Give the exit code of an answer."""
    if 200 <= answer.status < 300:
        return 0
    members = _members(answer.body)
    code = members.get("code")
    if _is_ours(members) and isinstance(code, str):
        return _CODES.get(code, 1)
    return 1 if members else _STATUSES.get(answer.status, 1)


def told(name: str, answer: Answer) -> str:
    """Put an answer that is a no in one line."""
    members = _members(answer.body)
    if not members:
        return f"{name} answered with status {answer.status}."
    title, detail = str(members.get("title", "")), str(members.get("detail", ""))
    if _is_ours(members):
        if members.get("code") == "invalid" and detail:
            return detail  # it names the operation itself
        said = f"{title}. {detail}".strip()
        again = f" Try again in {answer.retry_after_s:g} s." if answer.retry_after_s is not None else ""
        return f"{name}: {said.rstrip('.')}.{again}"
    fields = ", ".join(f"{key}: {_text(value)}" for key, value in members.items() if key not in _COMMON)
    said = f"{title}. {detail}".rstrip(" .") if detail else title
    return f"{name} said no: {said} ({answer.status} {members.get('code', '')}{f'; {fields}' if fields else ''})"


def _is_ours(members: dict[str, Any]) -> bool:
    urn = members.get("type")
    return isinstance(urn, str) and urn.startswith(PROBLEM_URN) and "." not in urn.removeprefix(PROBLEM_URN)


def _members(body: bytes) -> dict[str, Any]:
    try:
        members = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return {}
    return cast("dict[str, Any]", members) if isinstance(members, dict) else {}


def _text(value: object) -> str:
    return msgspec.json.encode(value).decode()
