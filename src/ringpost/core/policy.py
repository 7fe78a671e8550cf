"""What makes calls safe, as it is set: one frozen value an operation, and for each of its figures who said it.

Whoever is nearer to the call has the last word: the call's own options, then what is set for the operation, for its
contract, for the process, then what is usual. It is worked out once for an operation at a target, not at each call.
"""

import difflib
import math
from collections.abc import Mapping

from msgspec import Struct
from msgspec.structs import fields

from ringpost.contract.errors import UsageError, listed
from ringpost.core.breaker import Rule
from ringpost.core.limit import LEAST

ATTEMPTS_MAX = 10
LIMIT_MAX = 1024
_SLOW_SHARE = 0.5
_NEVER = 2.0

Figure = bool | int | float
Policies = Mapping[str, Mapping[str, Figure]]
"""What is set: by the full name of an operation, by a contract's name, and by "" for the process."""


class Policy(Struct, frozen=True, kw_only=True):
    """How calls of an operation are made, retried, hedged, bounded and given up.

    `attempts` in all; `hedge`: a second request beside a late one, where the operation is declared `effect="read"`;
    `breaker` opens at a share `error_rate` of failures, or `slow_rate` of calls that take `slow_s` seconds, 0: half of
    the time that they have; at most `limit` calls are under way.
    """

    attempts: int = 3
    hedge: bool = True
    breaker: bool = True
    error_rate: float = 0.5
    slow_rate: float = 0.8
    slow_s: float = 0.0
    limit: int = 128

    def rule(self, timeout_s: float) -> Rule:
        """Give when the breaker opens, where a call usually has so much time. Without breaker no share is enough."""
        slow_s = self.slow_s or timeout_s * _SLOW_SHARE
        return Rule(self.error_rate, self.slow_rate, slow_s) if self.breaker else Rule(_NEVER, _NEVER, slow_s)


# What a user writes → the field: lengths of time are in seconds everywhere, so their keys carry no unit.
KEYS: Mapping[str, str] = {name.removesuffix("_s"): name for name in Policy.__struct_fields__}
_KINDS: Mapping[str, object] = {field.name: field.type for field in fields(Policy)}
_BOUNDS: Mapping[str, tuple[float, float]] = {
    "attempts": (1, ATTEMPTS_MAX),
    "error_rate": (0.01, 1.0),
    "slow_rate": (0.01, 1.0),
    "slow_s": (0.0, 3600.0),
    "limit": (LEAST, LIMIT_MAX),
}
USUAL = Policy()


def resolved(policies: Policies, contract: str, full_name: str) -> Policy:
    """Give the policy of an operation: what is set for it, else for its contract, else for the process."""
    values: dict[str, Figure] = {}
    for name in ("", contract, full_name):
        values.update(policies.get(name, {}))
    return Policy(**values) if values else USUAL  # type: ignore[arg-type]


class Said(Struct, frozen=True):
    """A figure of a policy and who said it: the name in `[policies]`, "" for the process, None for what is usual."""

    value: Figure
    by: str | None


def explained(policies: Policies, contract: str, full_name: str) -> dict[str, Said]:
    """Give each figure of an operation's policy, by its key, with who said it."""
    found: dict[str, Said] = {}
    for key, field in KEYS.items():
        by = next((name for name in (full_name, contract, "") if field in policies.get(name, {})), None)
        value: Figure = getattr(USUAL, field) if by is None else policies[by][field]
        found[key] = Said(value, by)
    return found


def checked_figure(key: str, value: object, where: str) -> tuple[str, Figure]:
    """Give the field that a key means and its value. Raises UsageError; `where` says where it stands."""
    field = KEYS.get(key)
    if field is None:
        near = difflib.get_close_matches(key, KEYS, 1)
        hint = f"Did you mean {near[0]}?" if near else f"There are {listed(sorted(KEYS))}."
        raise UsageError(f"{where} is no part of a policy. {hint}")
    kind = _KINDS[field]
    if kind is bool:
        if not isinstance(value, bool):
            raise UsageError(f"{where} is true or false, not {value!r}.")
        return field, value
    whole = kind is int
    right = isinstance(value, int) if whole else isinstance(value, int | float) and math.isfinite(value)
    if isinstance(value, bool) or not right:
        what = "a whole number" if whole else "a number"
        raise UsageError(f"{where} takes {what} such as {_example(field)}, not {value!r}.")
    assert isinstance(value, int | float)
    least, most = _BOUNDS[field]
    if not least <= value <= most:
        raise UsageError(f"{where} is from {least:g} to {most:,g}, not {value!r}.")
    return field, value if whole else float(value)


def _example(field: str) -> str:
    return "2.5" if field == "slow_s" else f"{getattr(USUAL, field)}"
