"""Which figures hold for a call and for a message, and who said each of them: its contract, its handler, the
configuration, or nobody, so that the default holds."""

from msgspec import Struct

from ringpost.cli.facts import Known
from ringpost.core.after import WAIT_S_MAX
from ringpost.core.deadline import MARGIN_S
from ringpost.core.handover import FORWARD_S_MAX, UNHURRIED_S_FIRST, UNHURRIED_S_MAX
from ringpost.core.keep import keep_s
from ringpost.core.notes import Described
from ringpost.core.outcome import DEPTH_MAX
from ringpost.core.retry import DEFAULT, Retry
from ringpost.service.handler import Handler
from ringpost.service.service import CONCURRENCY_ASYNC, CONCURRENCY_DEF, MAX_RUN_S

DEFAULT_WORD = "default"
_FIXED = "fixed"


class Term(Struct, frozen=True):
    """A figure as it is shown, and why it is that."""

    term: str
    value: str
    why: str


def of_call(known: Known) -> list[Term]:
    """Give what holds for a call from here."""
    declared = known.declared
    if declared is None:
        return [_undeclared(), timeout_of(known, Described()), _set(known, "request", "request_bytes_max", " bytes")]
    return [
        timeout_of(known, declared),
        Term("a call in a handler", f"{MARGIN_S * 1000:g} ms less", f"{_FIXED}: than what is left to the handler"),
        _priority(known, declared),
        _repeating(known, declared),
        _key(known, declared),
        Term("after=", f"waits {WAIT_S_MAX:g} s at most", f"{_FIXED}, and within the timeout"),
        Term("chain", f"{DEPTH_MAX} deep, none twice", _FIXED),
        _set(known, "request", "request_bytes_max", " bytes"),
        _set(known, "reply", "reply_bytes_max", " bytes"),
        *([] if known.handler is None else _of_handler(known.handler)),
    ]


def of_send(known: Known) -> list[Term]:
    """Give what holds for a message from here."""
    declared = known.declared
    if declared is None:
        return [_undeclared(), *_of_forwarding(known), _set(known, "request", "request_bytes_max", " bytes")]
    return [
        _expiry(known, declared),
        _priority(known, declared),
        _order(known, declared),
        _key(known, declared),
        _kept(known, declared),
        *(_of_forwarding(known) or [_tries(known.handler)]),
        _set(known, "queue", "depth_max", " messages"),
        _set(known, "request", "request_bytes_max", " bytes"),
        *([] if known.handler is None else _of_handler(known.handler)),
    ]


def of_publish(known: Known) -> list[Term]:
    """Give what holds for an event from here."""
    declared = known.declared or Described()
    return [_order(known, declared), _set(known, "data", "request_bytes_max", " bytes")]


def _undeclared() -> Term:
    why = "no code of it was given, and its service has never run on a store that is known here"
    return Term("what it declares", "not known here", why)


def timeout_of(known: Known, declared: Described) -> Term:
    settings = known.settings
    longest_s = settings.call_timeout_max_s
    if declared.timeout_s is None:
        usual_s = min(settings.call_timeout_s, longest_s)
        return Term("timeout", f"{usual_s:g} s", why_of(known, "call_timeout_s", _no(known, "timeout=")))
    why = f"timeout={declared.timeout_s:g} in {known.declared_by}"
    if declared.timeout_s > longest_s:
        why += f", cut to call_timeout_max, {origin_of(known, 'call_timeout_max_s')}"
    return Term("timeout", f"{min(declared.timeout_s, longest_s):g} s", why)


def _priority(known: Known, declared: Described) -> Term:
    if declared.priority:
        return Term("priority", declared.priority, f"priority={declared.priority!r} in {known.declared_by}")
    return Term("priority", "normal", DEFAULT_WORD)


def _repeating(known: Known, declared: Described) -> Term:
    if declared.effect:
        return Term("repeating", "safe", f"effect={declared.effect!r} in {known.declared_by}")
    if declared.keyed:
        return Term("repeating", "safe", f"it has an idempotency key, made by {known.declared_by}")
    return Term("repeating", "where it wasn't processed, or with a key", _no(known, "effect="))


def _key(known: Known, declared: Described) -> Term:
    if declared.keyed:
        return Term("idempotency key", "made of the request", f"idempotency_key= in {known.declared_by}")
    return Term("idempotency key", "none, unless given", _no(known, "idempotency_key="))


def _expiry(known: Known, declared: Described) -> Term:
    if declared.ttl_s is None:
        return Term("expires", "never", f"{DEFAULT_WORD}: {_no(known, 'ttl=')}")
    return Term("expires", f"after {declared.ttl_s:g} s", f"ttl={declared.ttl_s:g} in {known.declared_by}")


def _order(known: Known, declared: Described) -> Term:
    if declared.ordered:
        return Term("order", "one after the other, by key", f"ordering_key= in {known.declared_by}")
    return Term("order", "none, unless a key is given", f"{DEFAULT_WORD}: {_no(known, 'ordering_key=')}")


def _kept(known: Known, declared: Described) -> Term:
    kept_s = keep_s(keyed=declared.keyed, waited_for=declared.reply is not None)
    why = "it has an idempotency key" if declared.keyed else "it has a reply" if declared.reply else "it has no reply"
    return Term("kept after its end", f"{kept_s / 3600:g} h", f"{why}; 168 h with a key")


def _tries(handler: Handler | None) -> Term:
    if handler is None:
        return Term(
            "attempts", _rule(DEFAULT), f"{DEFAULT_WORD}, unless its handler says otherwise, whose code isn't here"
        )
    rules = [
        f"{_rule(rule)}{'' if kind is Exception else f' for {kind.__name__}'}" for kind, rule in handler.retry.items()
    ]
    said = handler.retry != {Exception: DEFAULT}
    return Term("attempts", "; ".join(rules), f"retry= of the handler in {handler.service}" if said else DEFAULT_WORD)


def _of_forwarding(known: Known) -> list[Term]:
    """Give what holds until another store has it; how often its handler is tried is decided there."""
    if not known.is_forwarded:
        return []
    pauses = f"again after {UNHURRIED_S_FIRST / 2:g} to {UNHURRIED_S_MAX:g} s, at no cost"
    return [
        Term("nobody is there", pauses, _FIXED),
        Term("given up", f"after {FORWARD_S_MAX / 86400:g} days", f"{_FIXED}; earlier where it expires"),
    ]


def _rule(rule: Retry) -> str:
    return f"{rule.attempts}, {rule.first:g} s to {rule.longest:g} s apart"


def _of_handler(handler: Handler) -> list[Term]:
    by_handler = f"the handler in {handler.service}"
    usual = CONCURRENCY_ASYNC if handler.is_async else CONCURRENCY_DEF
    terms = [
        Term(
            "at a time in a process",
            f"{handler.concurrency}",
            f"{DEFAULT_WORD} of {'async def' if handler.is_async else 'def'}"
            if handler.concurrency == usual
            else f"concurrency= of {by_handler}",
        ),
        Term(
            "runs for at most",
            f"{handler.max_run_s:g} s",
            DEFAULT_WORD if handler.max_run_s == MAX_RUN_S else f"max_run= of {by_handler}",
        ),
    ]
    if handler.finish:
        terms.append(Term("caller gone", "it goes on", f"finish=True of {by_handler}"))
    if handler.halt:
        terms.append(Term("a dead head", "holds its line", f"halt=True of {by_handler}"))
    return terms


def _set(known: Known, term: str, field: str, unit: str) -> Term:
    return Term(term, f"at most {getattr(known.settings, field):,}{unit}", why_of(known, field))


def _no(known: Known, option: str) -> str:
    return f"no {option} known" if known.declared is None else f"no {option} in {known.declared_by}"


def why_of(known: Known, field: str, more: str = "") -> str:
    key = field.removesuffix("_s")
    origin = origin_of(known, field)
    why = f"{key}, {origin}" if field in known.origins else f"{origin} of {key}"
    return f"{why}; {more}" if more else why


def origin_of(known: Known, field: str) -> str:
    return f"in {known.origins[field]}" if field in known.origins else DEFAULT_WORD
