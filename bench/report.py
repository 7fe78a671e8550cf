"""The report: text for the terminal, JSON for machines, Markdown for the documentation."""

import json
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from bench.chart import Chart
from bench.figures import Beside, Figure, Row, number, ratio

QUIET = 0.05  # of the machine, used by others: beyond it rates say little
_WORDS = {True: "reached", False: "MISSED", None: ""}


def head(machine: Mapping[str, str], command: str) -> str:
    return "\n".join([f"{key:>10}: {value}" for key, value in machine.items()] + [f"{'command':>10}: {command}"])


def text(row: Row) -> str:
    """Give a row as several lines."""
    lines = [row.what]
    for figure in row.figures:
        target = "" if figure.target is None else f"target {figure.target.text(figure.unit)}"
        value = f"{number(figure.median)} {figure.unit}"
        lines.append(
            f"  {figure.label:<14} {value:>14}  {figure.spread():<16} {target:<20} {_WORDS[figure.reached]}".rstrip()
        )
    lines.extend(f"    · {line}" for line in _besides(row))
    if row.others > QUIET:
        lines.append(f"    ! other programs used {row.others:.0%} of the machine meanwhile: rates are too low")
    if row.note:
        lines.append(f"    ({row.note})")
    return "\n".join(lines)


def _besides(row: Row) -> list[str]:
    found = [] if row.raw is None else [f"limit: {_beside(row.raw, row.figures, percent=True)}"]
    return found + [_beside(peer, row.figures, percent=False) for peer in row.peers]


def _beside(beside: Beside, ours: Sequence[Figure], *, percent: bool) -> str:
    if beside.missing:
        return f"{beside.name}: NOT MEASURED: {beside.missing}"
    words: list[str] = []
    for number_of, figure in enumerate(ours):
        theirs = beside.like(figure)
        if theirs is not None:
            word = f"{figure.label} {number(theirs.median)} {figure.unit}"
            if number_of == 0:
                word += f" ({_against(figure, theirs, percent=percent)})"
            words.append(word)
    return f"{beside.name}: {', '.join(words)}"


def _against(ours: Figure, theirs: Figure, *, percent: bool) -> str:
    times = ratio(ours, theirs)
    if math.isinf(times):
        return "nothing"
    return f"{times * 100:.0f} % of it" if percent else f"{number(times)} ×"


def summary(rows: Sequence[Row]) -> str:
    """Give one line for each target."""
    lines = ["", "targets:"]
    for row in rows:
        for figure in row.figures:
            if figure.target is not None:
                value, target = f"{number(figure.median)} {figure.unit}", figure.target.text(figure.unit)
                lines.append(f"  {_WORDS[figure.reached]:<8} {value:>14}  {target:<14} {row.what}, {figure.label}")
    return "\n".join(lines)


def document(
    machine: Mapping[str, str], command: str, rows: Sequence[Row], charts: Sequence[Chart] = ()
) -> dict[str, Any]:
    """Give everything, every single measurement too, and what the pictures show."""
    return {
        "machine": dict(machine),
        "command": command,
        "rows": [
            {
                "what": row.what,
                "reached": row.reached,
                "figures": [_figure(figure) for figure in row.figures],
                "limit": None if row.raw is None else _both(row.raw, row),
                "peers": [_both(peer, row) for peer in row.peers],
                "note": row.note,
                "others": row.others,
            }
            for row in rows
        ],
        "charts": msgspec.to_builtins(charts),
    }


def _figure(figure: Figure) -> dict[str, Any]:
    target = None if figure.target is None else {"bound": figure.target.bound, "upwards": figure.target.upwards}
    return {
        "label": figure.label,
        "unit": figure.unit,
        "median": figure.median,
        "values": list(figure.values),
        "target": target,
        "reached": figure.reached,
    }


def _both(beside: Beside, row: Row) -> dict[str, Any]:
    theirs = beside.like(row.figures[0])
    return {
        "name": beside.name,
        "missing": beside.missing,
        "ratio": None if theirs is None else ratio(row.figures[0], theirs),
        "figures": [_figure(figure) for figure in beside.figures],
    }


def markdown(found: Mapping[str, Any]) -> str:
    """Make the table of the documentation from a document."""
    lines = ["| what | measured | target | limit below it | peers in the same run |", "|---|---|---|---|---|"]
    for row in found["rows"]:
        figures = [figure for figure in row["figures"] if figure["target"]] or row["figures"][:1]
        figures += [figure for figure in row["figures"] if "CPU" in figure["label"] and figure not in figures]
        measured = "<br>".join(
            f"{_bold(figure)} {figure['unit']} {figure['label']} ({number(min(figure['values']))}–"
            f"{number(max(figure['values']))})"
            for figure in figures
        )
        targets = "<br>".join(_target(figure) for figure in figures)
        limit = "" if row["limit"] is None else _main(row["limit"], row)
        peers = "<br>".join(_peer(peer, row) for peer in row["peers"])
        lines.append(f"| {row['what']} | {measured} | {targets} | {limit} | {peers} |")
    return "\n".join(lines)


def _bold(figure: Mapping[str, Any]) -> str:
    return f"**{number(figure['median'])}**" if figure["target"] else number(figure["median"])


def _target(figure: Mapping[str, Any]) -> str:
    if not figure["target"]:
        return "–"
    sign = "≥" if figure["target"]["upwards"] else "≤"
    return f"{sign} {number(figure['target']['bound'])}{'' if figure['reached'] else ', **missed**'}"


def _main(beside: Mapping[str, Any], row: Mapping[str, Any]) -> str:
    label = row["figures"][0]["label"]
    return next(
        (f"{number(figure['median'])} {figure['unit']}" for figure in beside["figures"] if figure["label"] == label), ""
    )


def _peer(beside: Mapping[str, Any], row: Mapping[str, Any]) -> str:
    if beside["missing"]:
        return f"{beside['name']}: not measured"
    times = "" if math.isinf(beside["ratio"]) else f" ({number(beside['ratio'])} ×)"
    return f"{beside['name']} {_main(beside, row)}{times}"


if __name__ == "__main__":
    print(markdown(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))))
