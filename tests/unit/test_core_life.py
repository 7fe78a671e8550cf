"""The life of a message: what the table promises on every way through it, and that a table that breaks it is caught."""

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from msgspec import Struct, structs

from ringpost.core import life
from ringpost.core.life import ENDS, QUEUED, TRANSITIONS, Happening, Transition, allowed
from ringpost.core.message import Kind, State

H = Happening
PAGE = Path(__file__).parents[2] / "docs" / "life-of-a-message.md"
ROWS_MAX = 5
STARTS = (H.RESERVE, H.CLAIM, H.OVERTAKE)


# --- every way through the table


class Row(Struct, eq=False):
    """A row of the model. `began`: the fences under which it was held, one after the other."""

    number: int
    kind: Kind
    line: str
    state: State | None = None
    generation: int = 1
    started_ms: int | None = None
    fence: int = 0
    in_line: bool = False
    began: list[int] = []
    seen: list[tuple[int, int]] = []


class World:
    """All rows of a store, and the smallest rules for what the table leaves open: fences and lines."""

    def __init__(self, table: tuple[Transition, ...]) -> None:
        self.table = table
        self.rows: list[Row] = []
        self.fence = 0

    def possible(self, row: Row | None) -> list[tuple[Transition, life.Place]]:
        """Give what can happen to a row, or to none, by the table."""
        state = None if row is None else row.state
        return [
            (line, target)
            for line in self.table
            if state in line.sources
            and (row is None or row.kind in line.kinds)
            and (line.happening is not H.TURN or self.first(row))
            for target in sorted(line.targets, key=lambda place: place or 0)
        ]

    def happen(self, row: Row | None, line: Transition, target: life.Place, kind: Kind, name: str) -> None:
        if row is None:
            row = Row(len(self.rows) + 1, kind if kind in line.kinds else Kind.MESSAGE, name)
            if row.kind not in line.kinds:
                row.kind = min(line.kinds)
            self.rows.append(row)
        before = row.state
        if before in ENDS and target not in ENDS and target is not None:
            assert line.happening is H.REPLAY, f"{line.happening} leaves {before}"
            row.generation += 1
            row.started_ms = None
        if line.fence == "new":
            self.fence += 1
            row.fence = self.fence
        if target is State.RUNNING and line.happening in STARTS:
            row.began.append(row.fence)
            row.started_ms = row.started_ms or 1
        if row.kind is Kind.CALL:
            assert line.happening is not H.CLAIM, "a reservation was claimed"
            assert before is None or target not in QUEUED, "a reservation waits to be claimed"
        row.state = self.place(row, before, target)
        if row.state is None:
            self.rows.remove(row)
        else:
            row.seen.append((row.generation, life.shown(row).rank))
        self.wake(row)

    def place(self, row: Row, before: life.Place, target: life.Place) -> life.Place:
        """Give a row its place in its line: behind whoever is its head."""
        if target is None or target in ENDS:
            row.in_line = False
        elif row.line and not row.in_line and target in (State.READY, State.WAITING):
            target = State.WAITING if self.head(row.line) else State.READY
            row.in_line = True
        elif row.line and row.in_line and target is State.WAITING:
            target = State.READY  # a head that is tried again stays the head
        elif target is State.WAITING and not row.line:
            target = State.READY
        elif target is State.RUNNING and row.line and not row.in_line:
            row.line = ""  # what is born running stands in no line
        return target

    def head(self, name: str) -> list[Row]:
        return [row for row in self.rows if row.line == name and row.in_line and row.state is not State.WAITING]

    def first(self, row: Row | None) -> bool:
        waiting = [other for other in self.rows if row and other.line == row.line and other.state is State.WAITING]
        return row is not None and not self.head(row.line) and waiting[:1] == [row]

    def wake(self, gone: Row) -> None:
        if gone.line and not self.head(gone.line):
            for row in self.rows:
                if row.line == gone.line and row.state is State.WAITING:
                    assert State.READY in allowed(State.WAITING, H.TURN)
                    row.state = State.READY
                    return

    def check(self) -> None:
        for row in self.rows:
            assert row.began == sorted(set(row.began)), "the fence rises at every entry into running"
            assert row.state is not State.RUNNING or row.began[-1:] == [row.fence], "and is the one it is held under"
            assert row.seen == sorted(row.seen), "what a ticket shows goes back"
        for name in {row.line for row in self.rows if row.line}:
            heads = self.head(name)
            assert len(heads) <= 1, "a line has two heads"
            asleep = any(row.line == name and row.state is State.WAITING for row in self.rows)
            assert heads or not asleep, "a line sleeps"


def machine(table: tuple[Transition, ...]) -> type[RuleBasedStateMachine]:
    class Lives(RuleBasedStateMachine):
        def __init__(self) -> None:
            super().__init__()
            self.world = World(table)

        @rule(data=st.data(), kind=st.sampled_from(Kind), line=st.sampled_from(["", "a", "b"]))
        def happen(self, data: st.DataObject, kind: Kind, line: str) -> None:
            rows: list[Row | None] = [*self.world.rows]
            row = data.draw(st.sampled_from(rows if len(rows) == ROWS_MAX else [None, *rows]))
            possible = self.world.possible(row)
            if possible:
                self.world.happen(row, *data.draw(st.sampled_from(possible)), kind, line)

        @precondition(lambda self: self.world.rows)
        @invariant()
        def promises_hold(self) -> None:
            self.world.check()

    return Lives


def walk(table: tuple[Transition, ...], examples: int = 100) -> None:
    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        machine(table),
        settings=settings(
            max_examples=examples,
            stateful_step_count=30,
            phases=[Phase.generate],
            deadline=None,
            derandomize=True,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


def test_whatever_happens_the_promises_hold() -> None:
    walk(TRANSITIONS)


def with_line(change: Callable[[Transition], Transition | None], *more: Transition) -> tuple[Transition, ...]:
    changed = [change(line) for line in TRANSITIONS]
    return (*[line for line in changed if line is not None], *more)


def no_fence(line: Transition) -> Transition:
    return structs.replace(line, fence="") if line.happening in STARTS else line


def claimed_calls(line: Transition) -> Transition:
    both = frozenset(Kind)
    return structs.replace(line, kinds=both) if line.happening in (H.CLAIM, H.RELEASE, H.LEASE_END) else line


def undead(line: Transition) -> Transition:
    return structs.replace(line, happening=H.DUE) if line.happening is H.REPLAY else line


def late_cancel(line: Transition) -> Transition:
    widened = structs.replace(
        line, sources=frozenset({*line.sources, State.SUCCEEDED}), targets=frozenset({State.READY})
    )
    return widened if line.happening is H.EXPIRE else line


@pytest.mark.parametrize("break_it", [no_fence, claimed_calls, undead, late_cancel])
def test_a_table_that_breaks_a_promise_is_caught(break_it: Callable[[Transition], Transition | None]) -> None:
    with pytest.raises((AssertionError, ExceptionGroup)):
        walk(with_line(break_it))


# --- the table itself


def test_an_end_is_left_by_replay_alone() -> None:
    for line in TRANSITIONS:
        if line.sources & ENDS and line.targets - {None}:
            assert (line.happening, line.sources) == (H.REPLAY, {State.DEAD})


def test_every_entry_into_running_draws_a_fence() -> None:
    entries = {line.happening for line in TRANSITIONS if State.RUNNING in line.targets and line.fence == "new"}
    assert entries == set(STARTS)
    stays = {H.RENEW, H.PROGRESS, H.CANCEL, H.OVERTAKE}
    for line in TRANSITIONS:
        if State.RUNNING in line.targets and line.fence != "new":
            assert line.sources == {State.RUNNING} and line.happening in stays


def test_a_holder_leaves_running_only_under_its_fence() -> None:
    for line in TRANSITIONS:
        leaves = State.RUNNING in line.sources and State.RUNNING not in line.targets
        if leaves and line.happening is not H.LEASE_END:
            assert line.fence == "checked", line.happening


def test_a_reservation_is_never_claimed() -> None:
    calls = [line for line in TRANSITIONS if Kind.CALL in line.kinds]
    assert not [line for line in calls if line.targets & {*QUEUED, State.FORWARDED, State.DEAD, State.EXPIRED}]
    assert allowed(State.READY, H.CLAIM, Kind.CALL) == frozenset()
    assert allowed(State.RUNNING, H.RELEASE, Kind.CALL) == {None}


def test_every_state_is_reached_and_left() -> None:
    reached = {target for line in TRANSITIONS for target in line.targets}
    left = {source for line in TRANSITIONS for source in line.sources}
    assert reached == left == {*State, None}


def test_everything_that_can_happen_is_in_the_table() -> None:
    assert {line.happening for line in TRANSITIONS} == set(Happening)


@pytest.mark.parametrize(
    ("state", "happening", "targets"),
    [
        (None, H.PUT, {State.READY, State.WAITING, State.SCHEDULED}),
        (None, H.CLAIM, set()),
        (State.READY, H.CLAIM, {State.RUNNING, State.DEAD}),
        (State.SCHEDULED, H.CLAIM, set()),
        (State.RUNNING, H.SUCCEED, {State.SUCCEEDED, State.FAILED}),
        (State.RUNNING, H.EXPIRE, set()),
        (State.RUNNING, H.LEASE_END, {State.READY, State.DEAD, State.CANCELLED, None}),
        (State.SUCCEEDED, H.CANCEL, set()),
        (State.DEAD, H.REPLAY, {State.READY, State.WAITING}),
        (State.EXPIRED, H.REPLAY, set()),
        (State.SUCCEEDED, H.DROP, set()),
    ],
)
def test_what_is_allowed(state: State | None, happening: Happening, targets: set[State | None]) -> None:
    assert allowed(state, happening) == targets


# --- tickets


class Seen(Struct):
    state: State
    started_ms: int | None = None


@pytest.mark.parametrize(
    ("state", "fresh", "once_started", "status"),
    [
        (State.SCHEDULED, "accepted", "running", "NotStarted"),
        (State.WAITING, "accepted", "running", "NotStarted"),
        (State.READY, "accepted", "running", "NotStarted"),
        (State.RUNNING, "running", "running", "Running"),
        (State.FORWARDED, "running", "running", "Running"),
        (State.SUCCEEDED, "succeeded", "succeeded", "Succeeded"),
        (State.FAILED, "failed", "failed", "Failed"),
        (State.CANCELLED, "cancelled", "cancelled", "Canceled"),
        (State.EXPIRED, "expired", "expired", "Failed"),
        (State.DEAD, "failed", "failed", "Failed"),
    ],
)
def test_what_a_ticket_shows(state: State, fresh: str, once_started: str, status: str) -> None:
    assert life.ticket_state(Seen(state)) == fresh
    assert life.ticket_state(Seen(state, 1)) == once_started
    assert life.shown(Seen(state)).status == status


def test_every_state_shows_as_something() -> None:
    assert set(life.TICKETS) == set(State)


# --- the documentation


def test_the_page_in_the_documentation_is_current() -> None:
    page = PAGE.read_text()
    assert f"```mermaid\n{life.mermaid()}```\n" in page, "run `make docs`"
    assert life.markdown() in page, "run `make docs`"


def test_the_diagram_names_every_state_and_happening() -> None:
    diagram = life.mermaid()
    assert diagram.startswith("stateDiagram-v2\n    [*] --> ")
    assert all(state.name.lower() in diagram for state in State)
    assert all(happening in diagram for happening in Happening)
