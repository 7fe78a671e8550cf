"""When requests are offered: a schedule that is made beforehand and never waits for an answer (an open loop)."""

import random
from collections.abc import Sequence
from itertools import accumulate


def poisson(rate: float, seconds: float, seed: int) -> list[float]:
    """Give the instants, in seconds from the beginning, at which so many independent callers a second would call."""
    chance = random.Random(seed)
    instants: list[float] = []
    at_s = chance.expovariate(rate)
    while at_s < seconds:
        instants.append(at_s)
        at_s += chance.expovariate(rate)
    return instants


def kinds(count: int, shares: Sequence[float], seed: int) -> list[int]:
    """Give the kind of each request: `shares` says how often each kind comes, in proportion."""
    chance = random.Random(seed)
    return chance.choices(range(len(shares)), cum_weights=list(accumulate(shares)), k=count)
