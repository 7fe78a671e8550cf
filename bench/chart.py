"""What a picture shows, before anything is drawn: lines over time, levels, and the phases of an experiment."""

from collections.abc import Sequence
from typing import Literal

from msgspec import Struct

Tone = Literal["ours", "other", "theirs", "quiet"]
Point = tuple[float, float]


class Line(Struct, frozen=True):
    label: str
    tone: Tone
    points: Sequence[Point]


class Level(Struct, frozen=True):
    """A horizontal line: a target or a limit."""

    label: str
    at: float


class Panel(Struct, frozen=True):
    """One pair of axes. It begins at zero, and ends at `top` where that is said."""

    ylabel: str
    lines: Sequence[Line]
    levels: Sequence[Level] = ()
    top: float | None = None


class Phase(Struct, frozen=True):
    """A time in which something was wrong."""

    label: str
    begin_s: float
    end_s: float


class Chart(Struct, frozen=True):
    """One picture: panels above each other with the same time below."""

    name: str
    title: str
    panels: Sequence[Panel]
    phases: Sequence[Phase] = ()
    xlabel: str = "seconds"
