"""The other half of the thousand towns: a file is one worker's."""

import pytest
from simulated.apart import PART, hold

pytestmark = pytest.mark.timeout(240)


@pytest.mark.parametrize("first", range(500, 1000, PART))
def test_a_town_holds_what_is_promised(first: int) -> None:
    hold(first)
