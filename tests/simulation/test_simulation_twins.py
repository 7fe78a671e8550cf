"""Each broken twin is caught by some of the first towns."""

import pytest
from simulated.seed import simulate
from simulated.twins import TWINS, Twin

TWIN_SEEDS = 150  # the most that a twin needs; it is caught with the first seed that shows it

pytestmark = pytest.mark.timeout(240)


@pytest.mark.parametrize("twin", TWINS, ids=lambda twin: twin.__name__)
def test_a_twin_is_caught(twin: Twin) -> None:
    for seed in range(TWIN_SEEDS):
        with twin():
            if simulate(seed)[0]:
                return
    pytest.fail(f"{twin.__name__}: nothing was seen in {TWIN_SEEDS} seeds")
