"""Write what in the documentation is generated from the code, between its `generated` marks.

usage: python tools/docs.py [--check]     with --check nothing is written; exit code 1 if something is out of date
"""

import re
import sys
from collections.abc import Callable
from pathlib import Path

from ringpost.contract.contract import Contract
from ringpost.contract.operation import Operation
from ringpost.core import life
from ringpost.core.outcome import PROBLEMS, problem_answer
from ringpost.core.policy import KEYS as POLICY_KEYS
from ringpost.core.policy import USUAL
from ringpost.settings import KEYS, PREFIX, Settings
from ringpost.wire.problem import error_of

ROOT = Path(__file__).resolve().parent.parent
PARTS: dict[str, Callable[[], str]] = {}
MARK = re.compile(r"(<!-- generated: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def part(make: Callable[[], str]) -> Callable[[], str]:
    """Offer a generated part to the pages, by its function's name."""
    PARTS[make.__name__] = make
    return make


@part
def diagram() -> str:
    """The states of a message."""
    return f"```mermaid\n{life.mermaid().strip()}\n```"


@part
def transitions() -> str:
    """The life-cycle table."""
    return life.markdown().strip()


# What each key is for; every key has a line here, or the page isn't written.
FOR = {
    "store": "where messages wait: `sqlite:///shop.db`, `sqlite:////var/lib/shop.db`, `postgresql://shop@db/shop`,"
    " `memory:` in tests",
    "outbox": "the business database whose [outbox table](outbox.md#the-table) is relayed to the store:"
    " `sqlite:///orders.db`, `postgresql://shop@db/orders`",
    "http": "where the door listens: `host:port`; `none`: no door",
    "workers": "processes of `ringpost run`",
    "addresses": "contract → URL, for calls to services on other stores or hosts, and for messages to them",
    "policies": "how calls are made: [below](#policies)",
    "durability": "the least that a receipt must be worth: `durable`, `replicated`, `buffered`; PostgreSQL is asked"
    " what it gives; SQLite gives `durable` and `memory:` gives `buffered`, whatever stands here",
    "listen_url": "where wake-ups of PostgreSQL come from, if `store` leads through a pooler; past it",
    "advertise": "the URL under which others reach this door, for `Location` and for callers on the same store",
    "tls_cert": "certificate chain, PEM; with `tls_key`",
    "tls_key": "its private key, PEM",
    "lease": "how long a claimed message belongs to a worker that gives no sign of life; at least 1; the same for all",
    "tx_hold_max": "how long a handler's `Transaction` may keep others from writing to a SQLite store; at most 5",
    "keep_bytes": "room for ended messages; beyond it the oldest without a key go early",
    "depth_max": "messages that a queue takes from outside; what handlers stage is never refused",
    "depth_bytes_max": "the same, by size",
    "request_bytes_max": "a request, called or sent",
    "reply_bytes_max": "a reply",
    "header_bytes_max": "the head of an HTTP request",
    "header_count_max": "its header lines",
    "header_time": "for the head of a request to arrive",
    "body_time": "for its body to arrive, and for a client to read",
    "keep_alive": "for which the door keeps a silent connection",
    "pool_idle": "for which a client keeps one; shorter than the door",
    "connections_max": "connections of one door; beyond it the one that was silent longest is closed",
    "limiter": "how it is found how many calls of an operation run at once: `aimd`, `gradient` or `fixed`",
    "limit_least": "how far a limiter goes down",
    "call_queue": "calls of an operation that wait for a slot, where that is less than may run; 0: none",
    "call_timeout": "of a call where neither caller nor operation says one",
    "call_timeout_max": "the longest that a call may take",
    "shutdown": "from SIGTERM to the end of the process, at most",
}


@part
def settings() -> str:
    """The keys of the configuration, with their defaults and units."""
    assert set(FOR) == set(KEYS), set(FOR) ^ set(KEYS)
    lines = ["| key | variable | default | what it is |", "|---|---|---|---|"]
    usual = Settings()
    for key, field in KEYS.items():
        lines.append(f"| `{key}` | `{PREFIX}{key.upper()}` | {_default(field, getattr(usual, field))} | {FOR[key]} |")
    return "\n".join(lines)


POLICY_FOR = {
    "attempts": "attempts of a call in all, 1 to 10; more than one only where repeating is safe",
    "hedge": 'ask a second time beside a late call, where the operation is declared `effect="read"`',
    "breaker": "stop calling where calls only fail or only wait",
    "error_rate": "the share of failures, of at least 20 calls in 10 s, at which the breaker opens",
    "slow_rate": "the share of slow calls at which it opens",
    "slow": "from when on a call is slow",
    "limit": "calls of one operation under way at one target: half of its connections; 1,024 more stand in line",
}


@part
def policies() -> str:
    """The keys of a policy."""
    assert set(POLICY_FOR) == set(POLICY_KEYS), set(POLICY_FOR) ^ set(POLICY_KEYS)
    lines = ["| key | default | what it is |", "|---|---|---|"]
    for key, field in POLICY_KEYS.items():
        value = getattr(USUAL, field)
        shown = "half of the operation's timeout" if key == "slow" else str(value).lower()
        lines.append(f"| `{key}` | {shown} | {POLICY_FOR[key]} |")
    return "\n".join(lines)


def _default(field: str, value: object) -> str:
    """Show a default with its unit."""
    if value is None or value == {}:
        return "none"
    if field.endswith("_s"):
        return f"{value:g} s"
    if not field.endswith("bytes") and "_bytes_" not in field:
        return f"{value:,}" if isinstance(value, int) else f"`{value}`"
    assert isinstance(value, int)
    for unit, size in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if value % size == 0:
            return f"{value // size} {unit}"
    return f"{value:,} bytes"


class Asked(Contract):
    """An operation to be answered with every problem."""

    it = Operation(None)


@part
def problems() -> str:
    """The problems of Ringpost's own, and what a client raises for each."""
    lines = ["| status | code | what it says | a client raises |", "|---|---|---|---|"]
    for code, word in sorted(PROBLEMS.items(), key=lambda item: (item[1].status, item[0])):
        answer = problem_answer(code)
        raised = error_of(answer.status, answer.body, {}, Asked.it)
        lines.append(f"| {word.status} | `{code}` | {word.title} | `{type(raised).__name__}` |")
    return "\n".join(lines)


def fresh(text: str) -> str:
    """Give a page with its generated parts made anew."""
    return MARK.sub(lambda found: f"{found[1]}{PARTS[found[2]]()}\n{found[3]}", text)


def main() -> int:
    stale: list[str] = []
    for page in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]:
        was = page.read_text(encoding="utf-8")
        now = fresh(was)
        if was != now:
            stale.append(str(page.relative_to(ROOT)))
            if "--check" not in sys.argv:
                page.write_text(now, encoding="utf-8")
    if stale:
        print(("out of date, run `make docs`: " if "--check" in sys.argv else "wrote ") + ", ".join(stale))
    return 1 if stale and "--check" in sys.argv else 0


if __name__ == "__main__":
    sys.exit(main())
