"""One run: its sizes, its folder, its progress, and what has been measured already."""

import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from bench.chart import Chart
from bench.figures import Beside, Figure, Target, Unit, number

T = TypeVar("T")
Sample = Mapping[str, float]
Samples = Mapping[str, list[float]]


class Session:
    """What cases measure with. Nothing is measured twice in a run: rows share what they have in common."""

    def __init__(self, folder: Path, *, reps: int, quick: bool, least: bool = False, long_reps: int = 1) -> None:
        """`least`: as small as can be, to see that it works at all. `long_reps`: how often what takes minutes."""
        self.folder = folder
        self.reps = reps
        self.long_reps = long_reps
        self.quick = quick
        self.least = least
        self.charts: list[Chart] = []
        self._known: dict[str, Samples] = {}
        self._failed: dict[str, str] = {}
        self._made: dict[str, Any] = {}
        self._began_s = time.monotonic()

    def size(self, full: int, quick: int) -> int:
        return 1 if self.least else quick if self.quick else full

    def measure(self, name: str, once: Callable[[], Sample], *, reps: int | None = None) -> Samples:
        """Measure something as often as asked for, each time afresh. The first key of a sample is shown as it goes."""
        if name not in self._known:
            taken: list[Sample] = []
            reps = reps or self.reps
            for rep in range(1, reps + 1):
                self._progress(f"{name}, {rep} of {reps} …")
                sample = once()
                key = next(iter(sample))
                self.say(f"{name}, {rep} of {reps}: {key} {number(sample[key])}")
                taken.append(sample)
            self._known[name] = {key: [sample[key] for sample in taken] for key in taken[0]}
        return self._known[name]

    def beside(
        self, name: str, once: Callable[[], Sample], units: Mapping[str, Unit], *, reps: int | None = None
    ) -> Beside:
        """Measure somebody else. What can't be measured is said, loudly, and nothing else stops for it."""
        if name not in self._failed:
            try:
                samples = self.measure(name, once, reps=reps)
            except Exception as error:  # noqa: BLE001 (the border: a peer that fails must not take our rows along)
                self._failed[name] = f"{type(error).__name__}: {str(error).strip()[-300:]}"
                self.say(f"{name}: NOT MEASURED, {self._failed[name]}")
            else:
                return Beside(name, [Figure(key, unit, samples[key]) for key, unit in units.items() if key in samples])
        return Beside(name, missing=self._failed[name])

    def once(self, name: str, make: Callable[[], T]) -> T:
        """Make something once in a run; what failed is not tried again."""
        if name in self._failed:
            raise RuntimeError(self._failed[name])
        if name not in self._made:
            try:
                self._made[name] = make()
            except Exception as error:
                self._failed[name] = str(error)
                raise
        made: T = self._made[name]
        return made

    def draw(self, chart: Chart) -> None:
        """Keep what a case saw over time, for a picture of it."""
        self.charts.append(chart)

    def say(self, text: str) -> None:
        self._progress("")
        print(f"[{self._clock()}] {text}", file=sys.stderr, flush=True)

    def _progress(self, text: str) -> None:
        if sys.stderr.isatty():
            print(f"\r\033[K[{self._clock()}] {text}" if text else "\r\033[K", end="", file=sys.stderr, flush=True)

    def _clock(self) -> str:
        seconds = int(time.monotonic() - self._began_s)
        return f"{seconds // 60:02}:{seconds % 60:02}"

    @contextmanager
    def scratch(self) -> Generator[Path]:
        """Give an empty folder on the disk that is measured; it goes when the block is left."""
        with tempfile.TemporaryDirectory(dir=self.folder) as folder:
            yield Path(folder)


def figure(samples: Samples, key: str, unit: Unit, target: Target | None = None, label: str = "") -> Figure:
    return Figure(label or key, unit, samples[key], target)


def percentile(values: list[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def median(values: list[float]) -> float:
    return statistics.median(values)
