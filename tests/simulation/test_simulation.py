"""A thousand towns under crashes and bad weather: nothing is done twice, too late, or never. Here the first half.

A seed that fails: `make simulate ARGS="--seed N --trace"`.
"""

import pytest
from simulated.apart import PART, hold, simulated

pytestmark = pytest.mark.timeout(240)


@pytest.mark.parametrize("first", range(0, 500, PART))
def test_a_town_holds_what_is_promised(first: int) -> None:
    hold(first)


def test_a_seed_is_replayed_to_the_letter() -> None:
    trace = simulated("--seed", 4711, "--trace").stdout
    assert trace.count("\n") > 100
    assert simulated("--seed", 4711, "--trace").stdout == trace
