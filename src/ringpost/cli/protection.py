"""What protects a call and its two ends, as it is set: on the caller's side the policy (attempts, hedging, breaker,
calls under way), at the door how calls are let in. For each figure, who said it."""

from collections.abc import Mapping

from ringpost.cli.facts import Known
from ringpost.cli.output import by, instant
from ringpost.cli.terms import DEFAULT_WORD, Term, origin_of
from ringpost.core.admission import queue_most
from ringpost.core.budget import TENTHS_MAX
from ringpost.core.policy import Said, explained, resolved
from ringpost.service.admits import Source, admits

_PER_TOKEN = 10


def of_call(known: Known) -> list[Term]:
    """Give what protects a call from here: the policy where it goes out over HTTP, the door's part where its handler is
    known."""
    return [*_of_operators(known), *_of_policy(known), *_of_door(known)]


def _of_operators(known: Known) -> list[Term]:
    """Give what operators ask for now; it goes before whatever is set."""
    terms = [
        Term("breaker", f"held {held.forced}{f' at {target}' if target else ''}", by(held.who, held.reason))
        for target, held in known.held.items()
    ]
    if known.closed is not None:
        until = f"closed until {instant(known.closed.until_ms)}"
        terms.insert(0, Term("service", until, f"{by(known.closed.who, known.closed.reason)}; 503, or a ticket"))
    return terms


def _of_policy(known: Known) -> list[Term]:
    policies = known.settings.policies
    said = explained(policies, known.contract, known.name)
    policy = resolved(policies, known.contract, known.name)
    timeout_s = _timeout_s(known)
    budget = f"budget of {TENTHS_MAX // _PER_TOKEN} for each target, shared by the process"
    terms = [
        Term("attempts of a call", f"{policy.attempts} in all", f"{_by(known, said, 'attempts')}; {budget}"),
        _hedge(known, said),
        _breaker(known, said, timeout_s),
        Term("under way at a target", f"at most {policy.limit}", _by(known, said, "limit")),
    ]
    if known.handler is None:
        return terms
    return [Term(one.term, one.value, f"{one.why}; only where it goes out over HTTP") for one in terms]


def _hedge(known: Known, said: Mapping[str, Said]) -> Term:
    effect = "" if known.declared is None else known.declared.effect
    if not said["hedge"].value:
        return Term("hedging", "none", _by(known, said, "hedge"))
    if effect != "read":
        return Term("hedging", "none", f"{known.declared_by} doesn't say effect='read'")
    return Term("hedging", "once it is later than 95 % are", _by(known, said, "hedge"))


def _breaker(known: Known, said: Mapping[str, Said], timeout_s: float) -> Term:
    if not said["breaker"].value:
        return Term("breaker", "none", _by(known, said, "breaker"))
    policy = resolved(known.settings.policies, known.contract, known.name)
    slow_s = policy.rule(timeout_s).slow_s
    why = dict.fromkeys(_by(known, said, key) for key in ("error_rate", "slow_rate", "slow"))
    shares = f"opens at {policy.error_rate:.0%} failures, or {policy.slow_rate:.0%} slower than {slow_s:g} s"
    return Term("breaker", shares, "; ".join(why))


def _of_door(known: Known) -> list[Term]:
    if known.handler is None or known.service is None or known.is_event:
        return []
    let_in = admits(known.handler, known.service, known.settings)
    limit = f"{let_in.most}" if let_in.limiter == "fixed" else f"{let_in.least} to {let_in.most}"
    limiter_why = _let_in_by(known, let_in.limiter_from, "limiter")
    queue_why = _let_in_by(known, let_in.call_queue_from, "call_queue")
    longest = queue_most(let_in.most)
    if let_in.call_queue > longest:
        queue_why = f"half of those that may run; {queue_why}: {let_in.call_queue}"
    return [
        Term("calls at a time", f"{limit} ({let_in.limiter})", limiter_why),
        Term("calls that wait for a slot", f"at most {min(let_in.call_queue, longest)}", queue_why),
    ]


def _let_in_by(known: Known, source: Source, field: str) -> str:
    assert known.handler is not None
    if source == "settings":
        return f"{field}, {origin_of(known, field)}" if field in known.origins else f"{DEFAULT_WORD} of {field}"
    whose = "the handler in" if source == "handler" else "the service"
    return f"{field}= of {whose} {known.handler.service}"


def _by(known: Known, said: Mapping[str, Said], key: str) -> str:
    """Say who said a figure of the policy."""
    by = said[key].by
    if by is None:
        return DEFAULT_WORD
    place = f'[policies."{by}"]' if "." in by else f"[policies.{by}]" if by else "[policies]"
    field = f"{key}_s" if key == "slow" else key
    return f"{key} of {place} in {known.origins.get(f'policies.{by}.{field}', 'the settings')}"


def _timeout_s(known: Known) -> float:
    declared_s = None if known.declared is None else known.declared.timeout_s
    return min(declared_s or known.settings.call_timeout_s, known.settings.call_timeout_max_s)
