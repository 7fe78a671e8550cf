"""How operations share the connections to a target: what those that hang take, and what is left to the others."""

import random
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ringpost.core.share import KEPT, may_take, next_of, places_of

PLACES = 256
Rule = Callable[[int, int], bool]


def hang(count: int, limit: int = 128, rule: Rule = may_take) -> list[int]:
    """Let operations hang one after the other; give how many places each takes."""
    free, taken = PLACES, []
    for _ in range(count):
        own = 0
        while own < limit and rule(own, free):
            own += 1
            free -= 1
        taken.append(own)
    return taken


def test_each_that_hangs_takes_half_of_what_the_ones_before_it_left() -> None:
    assert hang(30) == [128, 64, 32, 16, 8, 4, 2, 1, 1] + [1] * KEPT + [0] * 5


def test_who_is_held_to_less_leaves_more() -> None:
    assert hang(4, limit=50) == [50, 50, 50, 50]
    assert hang(6, limit=50) == [50, 50, 50, 50, 28, 14]


@pytest.mark.parametrize(
    ("own", "free", "allowed"),
    [
        (0, 256, True),
        (127, 129, True),
        (128, 128, False),
        (5, 6, True),
        (5, 5, False),
        (0, 1, True),
        (0, 0, True),  # of those that are kept
        (1, 0, False),
        (0, 1 - KEPT, True),
        (0, -KEPT, False),
    ],
)
def test_one_more(own: int, free: int, allowed: bool) -> None:
    assert may_take(own, free) is allowed


@pytest.mark.parametrize(
    ("owns", "free", "chosen"),
    [
        ([], 10, None),
        ([3], 4, 0),
        ([3], 3, None),
        ([5, 2, 7], 9, 1),
        ([2, 2], 9, 0),
        ([1, 0], -3, 1),
        ([1, 0], -KEPT, None),
    ],
)
def test_the_next(owns: list[int], free: int, chosen: int | None) -> None:
    assert next_of(owns, free) == chosen


@pytest.mark.parametrize(
    ("policies", "places"),
    [
        ({}, 256),
        ({"a": {"limit": 10}}, 256),
        ({"": {"limit": 10}, "a.b": {"limit": 300}}, 600),
        ({"a": {"attempts": 3}}, 256),
    ],
)
def test_half_of_the_places_is_what_a_policy_lets_one_operation_have(
    policies: dict[str, dict[str, int]], places: int
) -> None:
    assert places_of(policies) == places


class Target:
    """Operations at a target that take by the rule and give at random."""

    def __init__(self, operations: int, rule: Rule = may_take) -> None:
        self.owns = [0] * operations
        self.free = PLACES
        self.rule = rule

    def take(self, at: int) -> bool:
        if not self.rule(self.owns[at], self.free):
            return False
        self.owns[at] += 1
        self.free -= 1
        return True

    def give(self, at: int) -> None:
        self.owns[at] -= 1
        self.free += 1

    def check(self) -> None:
        assert sum(self.owns) + self.free == PLACES
        assert self.free >= -KEPT, "more than there are"
        assert max(self.owns) <= PLACES / 2, "more than half for one"
        if self.free > -KEPT:
            assert may_take(0, self.free), "nothing for who has none"


Steps = st.lists(st.tuples(st.integers(0, 29), st.booleans(), st.integers(1, 200)), max_size=60)


def follow(steps: Sequence[tuple[int, bool, int]], rule: Rule) -> None:
    target = Target(30, rule)
    for at, takes, times in steps:
        for _ in range(times):
            if takes:
                target.take(at)
            elif target.owns[at]:
                target.give(at)
        target.check()


@given(Steps)
def test_whatever_comes_and_goes_nobody_has_too_much_and_who_has_none_gets_one(
    steps: list[tuple[int, bool, int]],
) -> None:
    follow(steps, may_take)


@pytest.mark.parametrize(("well", "hung"), [(1, 0), (1, 1), (2, 0), (2, 3), (5, 1), (8, 5)])
def test_those_that_want_more_come_to_have_the_same_whoever_hangs(well: int, hung: int) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    target, chance = Target(hung + well), random.Random(seed)
    for at in range(hung + well):  # those that hang were first
        while target.take(at):
            pass
    for _ in range(2000):
        target.give(hung + chance.choices(range(well), target.owns[hung:])[0])
        while (at := next_of(target.owns, target.free)) is not None:
            target.take(at)
    target.check()
    share = target.owns[hung:]
    assert max(share) - min(share) <= 1
    assert abs(min(share) - target.free) <= 1, "as many are free as each has"


# --- twins


def regardless(own: int, free: int) -> bool:
    return own < 128


def keeping_nothing(own: int, free: int) -> bool:
    return own < free


def test_twins_leave_nothing_to_others() -> None:
    assert sum(hang(3, rule=regardless)) > PLACES
    assert hang(12, rule=keeping_nothing)[-1] == 0
    assert hang(12)[-1] == 1


def test_a_twin_that_lets_everybody_take_is_caught() -> None:
    with pytest.raises(AssertionError, match="more than there are"):
        follow([(0, True, 200), (1, True, 200), (2, True, 200)], regardless)
