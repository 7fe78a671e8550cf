"""What must hold of every run: always, and once the faults have stopped."""

import re
from collections import Counter
from collections.abc import Iterator

import msgspec

from ringpost.core.message import State
from simulated.history import History
from simulated.town import Job, Town

_IDS = re.compile(rb'"id":"([^"]+)"')
BUDGET = 5  # retries that a target's budget has from the start
FINAL = {"succeeded", "failed", "cancelled", "expired"}


def violations(town: Town, history: History) -> list[str]:
    """Say everything that was broken."""
    return [*history.broken, *_effects(town, history), *_late(history), *_amplification(history), *_tickets(history),
            *_ends(town)]  # fmt: skip


def entries(town: Town) -> Counter[str]:
    """Count what took effect, by id."""
    rows = [row for row in town.back_store.place.rows if row.queue == "ledger.entry"]
    return Counter(msgspec.json.decode(row.body, type=Job).id for row in rows)


def _effects(town: Town, history: History) -> Iterator[str]:
    done = entries(town)
    for id, count in done.items():
        if count > 1:
            yield f"{id} took effect {count} times"
    results = {watched.id: watched.result for watched in history.tickets}
    for asked in history.asked:
        if asked.kind not in ("pay", "note"):
            continue
        ending = results.get(asked.id, asked.ending)
        if ending == "ok" and not done[asked.id]:
            yield f"{asked.kind} {asked.id} was answered with success, and took no effect"
    twice = set(_IDS.findall(b"".join(town.network.doubled)))
    for asked in history.asked:
        # Of a request that the network repeats, what was said of the one is said of the one.
        if asked.denied and done[asked.id] and asked.id.encode() not in twice:
            yield f"{asked.kind} {asked.id} took effect, and its caller was told that certainly nothing was done"
    for id, count in history.starts["poke"].items():
        if count > 1:
            yield f"{id}, which isn't safe to repeat, was begun {count} times"
    for asked in history.asked:
        note = f"{asked.id}-note"
        if asked.kind == "order" and asked.ending == "ok" and not (done[f"{asked.id}-pay"] and done[note]):
            yield f"{asked.id} was answered with success, and what it called and sent took no effect"


def _late(history: History) -> Iterator[str]:
    for what in history.late:
        yield f"{what} was begun after its deadline"


def _amplification(history: History) -> Iterator[str]:
    for target, attempts in history.attempts.items():
        most = history.calls[target] + BUDGET + history.good[target] / 10
        if attempts > most:
            yield f"{attempts} requests to {target} for {history.calls[target]} calls: at most {most:g}"


def _tickets(history: History) -> Iterator[str]:
    for watched in history.tickets:
        states = watched.states
        finals = [state for state in states if state[1] in FINAL]
        if not finals:
            yield f"the ticket of {watched.kind} {watched.id} has not ended: {states}"
        elif len(set(finals)) > 1 or states[-1] not in finals or [g for g, _ in states] != sorted(g for g, _ in states):
            yield f"the ticket of {watched.kind} {watched.id} went back: {states}"
        elif watched.result == "unknown":
            yield f"the ticket of {watched.kind} {watched.id} gives no result"
        elif (watched.result == "ok") != (finals[-1][1] == "succeeded"):
            yield f"the ticket of {watched.kind} {watched.id} says {finals[-1][1]}, its result is {watched.result}"


def _ends(town: Town) -> Iterator[str]:
    for name, store in (("front", town.front_store), ("back", town.back_store)):
        for row in store.place.rows:
            if not row.state.terminal:
                yield f"in the store of {name} a message of {row.queue} is still {State(row.state).name}"
