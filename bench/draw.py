"""Draw the pictures of a run as SVG: `python -m bench.draw FILE.json FOLDER`, in an environment with matplotlib.

Colours are those of Okabe and Ito, told apart by colour-blind people too, and lines differ in their form as well. Each
colour is a variable of the picture, with another value where the reader's system is dark.
"""

import json
import re
import sys
from pathlib import Path
from typing import Any

import matplotlib
import msgspec
from matplotlib import pyplot
from matplotlib.ticker import MaxNLocator

from bench.chart import Chart, Panel, Tone

# name → on a light ground, on a dark one. Each light one stands for the variable while matplotlib draws.
COLOURS = {
    "ours": ("#0072b2", "#56b4e9"),
    "other": ("#009e73", "#2fc79a"),
    "theirs": ("#d55e00", "#f0894a"),
    "quiet": ("#8c959f", "#7d8590"),
    "ink": ("#24292f", "#e6edf3"),
    "muted": ("#57606a", "#9da7b3"),
    "grid": ("#d8dee4", "#30363d"),
    "shade": ("#eef1f4", "#1c2229"),
}
# The wide line lies below: where two are equal, both are seen.
FORMS: dict[Tone, dict[str, Any]] = {
    "ours": {"linewidth": 1.9, "zorder": 5},
    "other": {"linewidth": 5.0, "alpha": 0.45, "zorder": 3},
    "theirs": {"linewidth": 1.9, "linestyle": (0, (5, 1.6)), "zorder": 4},
    "quiet": {"linewidth": 1.4, "linestyle": (0, (1, 1.5)), "zorder": 2},
}
FONT = "system-ui, 'Segoe UI', Helvetica, Arial, sans-serif"
WIDTH_IN = 8.6
PANEL_IN = 2.7
HEAD_IN = 1.0
SINGLE_IN = 3.1
LEGEND_IN = 0.62  # title and first legend


def draw(chart: Chart, folder: Path) -> Path:
    """Write one picture; give its file."""
    pyplot.rcParams.update(_style())
    panel_in = SINGLE_IN if len(chart.panels) == 1 else PANEL_IN
    height_in = HEAD_IN + panel_in * len(chart.panels)
    figure, axes = pyplot.subplots(
        len(chart.panels), 1, sharex=True, squeeze=False, figsize=(WIDTH_IN, height_in), layout="constrained"
    )
    figure.get_layout_engine().set(h_pad=0.11, w_pad=0.1, rect=(0, 0, 1, 1 - LEGEND_IN / height_in))
    figure.text(0.012, 1 - 0.12 / height_in, chart.title, va="top", fontsize=13, fontweight="bold", color=_light("ink"))
    for axis, panel in zip(axes[:, 0], chart.panels, strict=True):
        _draw_panel(axis, panel)
        for phase in chart.phases:
            axis.axvspan(phase.begin_s, phase.end_s, color=_light("shade"), zorder=0, linewidth=0)
    for phase in chart.phases:
        _name_phase(axes[0, 0], phase.label, (phase.begin_s + phase.end_s) / 2)
    axes[-1, 0].set_xlabel(chart.xlabel)
    axes[-1, 0].set_xlim(0, max(at for panel in chart.panels for line in panel.lines for at, _ in line.points))
    file = folder / f"{chart.name}.svg"
    figure.savefig(file, format="svg", transparent=True, metadata={"Date": None, "Title": chart.title})
    pyplot.close(figure)
    file.write_text(_adaptive(file.read_text(encoding="utf-8")), encoding="utf-8")
    return file


def _draw_panel(axis: Any, panel: Panel) -> None:
    for line in panel.lines:
        across, up = zip(*line.points, strict=True)
        axis.plot(across, up, color=_light(line.tone), label=line.label, solid_capstyle="round", **FORMS[line.tone])
    for level in panel.levels:
        axis.axhline(level.at, color=_light("muted"), linewidth=0.9, linestyle=(0, (4, 3)), zorder=1)
        axis.annotate(
            level.label, (1.0, level.at), xycoords=("axes fraction", "data"), xytext=(6, 0),
            textcoords="offset points", va="center", fontsize=8.5, color=_light("muted"),
        )  # fmt: skip
    highest = max([level.at for level in panel.levels] + [up for line in panel.lines for _, up in line.points])
    axis.set_ylim(0, panel.top if panel.top is not None else highest * 1.15)
    axis.set_ylabel(panel.ylabel)
    axis.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
    axis.grid(axis="y")
    legend = axis.legend(
        loc="lower left", bbox_to_anchor=(0, 1.0), ncols=3, frameon=False, fontsize=9.5, borderaxespad=0.2,
        handlelength=1.8, columnspacing=1.6, labelcolor=_light("ink"),
    )  # fmt: skip
    legend.set_in_layout(False)  # else a long one makes the axes narrower


def _name_phase(axis: Any, label: str, at_s: float) -> None:
    axis.annotate(
        label, (at_s, 0.62), xycoords=("data", "axes fraction"), ha="center", va="center", fontsize=10.5,
        fontstyle="italic", color=_light("muted"), zorder=1,
    )  # fmt: skip


def _style() -> dict[str, Any]:
    return {
        "svg.fonttype": "none",
        "svg.hashsalt": "ringpost",  # the same series give the same bytes
        "font.size": 10,
        "axes.edgecolor": _light("muted"),
        "axes.labelcolor": _light("muted"),
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.spines.left": False,
        "xtick.color": _light("muted"),
        "ytick.color": _light("muted"),
        "ytick.left": False,
        "grid.color": _light("grid"),
        "grid.linewidth": 0.8,
    }


def _light(name: str) -> str:
    return COLOURS[name][0]


def _adaptive(svg: str) -> str:
    """Let the colours follow the reader's system, and the letters be its own."""
    for name, (light, _) in COLOURS.items():
        svg = svg.replace(light, f"var(--{name}, {light})")
    svg = re.sub(r"font: ([^;\"]*?px) [^;\"]*", rf"font: \1 {FONT}", svg)
    light_ones = "".join(f"--{name}:{light};" for name, (light, _) in COLOURS.items())
    dark_ones = "".join(f"--{name}:{dark};" for name, (_, dark) in COLOURS.items())
    style = f"<style>svg{{{light_ones}}}@media(prefers-color-scheme:dark){{svg{{{dark_ones}}}}}</style>"
    return svg.replace("<defs>", style + "\n <defs>", 1)


def main() -> None:
    matplotlib.use("svg")
    folder = Path(sys.argv[2])
    folder.mkdir(parents=True, exist_ok=True)
    document = json.loads(sys.stdin.read() if sys.argv[1] == "-" else Path(sys.argv[1]).read_text(encoding="utf-8"))
    for chart in msgspec.convert(document["charts"], list[Chart]):
        print(draw(chart, folder))


if __name__ == "__main__":
    main()
