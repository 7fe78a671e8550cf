"""What a row of the report is made of: figures with their spread, targets, and what stands beside them."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

Unit = Literal["/s", "µs", "ms", "s", "MB", "×", "%", "loaded"]


@dataclass(frozen=True)
class Target:
    """What a figure must reach. `least`: below this the work isn't done at all."""

    bound: float
    upwards: bool = True

    def reached(self, value: float) -> bool:
        return value >= self.bound if self.upwards else value <= self.bound

    def text(self, unit: Unit) -> str:
        return f"{'≥' if self.upwards else '≤'} {number(self.bound)} {unit}"


def at_least(bound: float) -> Target:
    return Target(bound)


def at_most(bound: float) -> Target:
    return Target(bound, upwards=False)


@dataclass(frozen=True)
class Figure:
    """One quantity, as often as it was measured."""

    label: str
    unit: Unit
    values: Sequence[float]
    target: Target | None = None

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    @property
    def reached(self) -> bool | None:
        return None if self.target is None else self.target.reached(self.median)

    def spread(self) -> str:
        return f"{number(min(self.values))}–{number(max(self.values))}" if len(self.values) > 1 else ""


@dataclass(frozen=True)
class Beside:
    """What the same run measured of somebody else, or of the layer below. `missing`: why there is nothing."""

    name: str
    figures: Sequence[Figure] = ()
    missing: str = ""

    def like(self, figure: Figure) -> Figure | None:
        return next((one for one in self.figures if one.label == figure.label), None)


@dataclass(frozen=True)
class Row:
    """One line of the targets: the first figure is the one that ratios are about."""

    what: str
    figures: Sequence[Figure]
    raw: Beside | None = None
    peers: Sequence[Beside] = field(default_factory=tuple)
    note: str = ""
    others: float = 0.0  # the share of the machine that other programs used meanwhile

    @property
    def reached(self) -> bool | None:
        verdicts = [figure.reached for figure in self.figures if figure.reached is not None]
        return all(verdicts) if verdicts else None


def ratio(ours: Figure, theirs: Figure) -> float:
    """Give how many times better ours is; infinite where theirs came to nothing."""
    smaller_is_better = ours.unit in ("µs", "ms", "s", "MB")
    over, under = (theirs.median, ours.median) if smaller_is_better else (ours.median, theirs.median)
    return over / under if under else math.inf


def number(value: float) -> str:
    """Write a number with three digits that mean something; an infinite one is a time that never comes."""
    if math.isinf(value):
        return "never"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    if abs(value) >= 100:
        return f"{value:.0f}"
    return f"{value:.3g}"
