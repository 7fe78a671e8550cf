"""Each experiment runs, in its smallest form: figures come out of it and fit together. None is judged here."""

import math
from pathlib import Path

import pytest
from bench.cases import breaker, domino, metastable, overload
from bench.chart import Chart
from bench.session import Sample, Session

pytestmark = pytest.mark.timeout(85)


@pytest.fixture
def session(tmp_path: Path) -> Session:
    return Session(tmp_path, reps=1, quick=True, least=True)


def _check(sample: Sample) -> None:
    for name, value in sample.items():
        assert value >= 0 and not math.isnan(value), f"{name}: {value}"


def _check_picture(chart: Chart, last_s: float) -> None:
    for panel in chart.panels:
        for line in panel.lines:
            instants = [at for at, _ in line.points]
            assert instants == sorted(instants) and instants[0] >= 0 and instants[-1] <= last_s, line.label


def test_domino(session: Session) -> None:
    seen = domino._seen(session, domino.SENDS)
    sample = domino._sample(seen)
    _check(sample)
    assert {one.kind for one in seen.offered.answers} == {0, 1, 2, 3}
    assert seen.offered.span.begin_s < seen.before.begin_s < seen.hung.begin_s < seen.hung.end_s
    assert seen.kept == 1, "a message to a service that hung is not lost"
    _check_picture(domino._chart([seen]), seen.offered.span.length_s)


def test_overload(session: Session) -> None:
    seen = overload._seen(session)
    sample = overload._sample(seen)
    _check(sample)
    assert seen.offered.rate == pytest.approx(overload.TIMES * seen.alone.capacity)
    assert any(one.refused for one in seen.offered.answers), "ten times the capacity, and nobody was refused"
    assert len(seen.door_ms) >= sum(one.refused for one in seen.offered.answers)
    _check_picture(overload._chart(seen), seen.offered.span.length_s)


def test_metastability(session: Session) -> None:
    seen = metastable._seen(session, metastable.CALLS)
    _check(metastable._sample(seen))
    assert seen.amplification > 0
    _check_picture(metastable._chart([seen]), seen.offered.span.length_s)


def test_breaker(session: Session) -> None:
    _check(breaker._once(session))
