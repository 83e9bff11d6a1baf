"""Figures as PNG and SVG."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from famseg.report.charts import INK, QUIET, Chart, Dots, Line, Lines, Panel

_DASH = {"solid": "-", "dash": "--", "dot": ":", "dashdot": "-."}
_STYLE: Any = {"font.size": 10, "axes.spines.top": False, "axes.spines.right": False, "svg.hashsalt": "famseg"}


def write_figure(folder: Path, key: str, figure: Figure) -> list[Path]:
    """Write `KEY.png` and `KEY.svg`, the same bytes each time."""
    folder.mkdir(parents=True, exist_ok=True)
    png, svg = folder / f"{key}.png", folder / f"{key}.svg"
    with mpl.rc_context(_STYLE):
        figure.savefig(png, dpi=150)
        figure.savefig(svg, metadata={"Date": None})
    return [png, svg]


def draw(chart: Chart) -> Figure:
    """The matplotlib figure of a chart."""
    with mpl.rc_context(_STYLE):
        return _draw_lines(chart) if isinstance(chart, Lines) else _draw_dots(chart)


def _draw_lines(chart: Lines) -> Figure:
    figure = Figure(figsize=(7.2 + 0.075 * max(len(line.name) for line in chart.lines), 4.8), layout="constrained")
    axes = figure.subplots()
    for line in chart.lines:
        _draw_line(axes, line)
    axes.set(xlabel=chart.x_label, ylabel=chart.y_label, title=chart.title)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(color="#e5e7eb", linewidth=0.7)
    axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=9)
    return figure


def _draw_line(axes: Any, line: Line) -> None:
    marker = "o" if len(line.x) < 3 else None  # a line of one point would not be seen
    style = {"color": line.colour, "linestyle": _DASH[line.dash], "marker": marker, "markersize": 3}
    axes.plot(line.x, line.y, linewidth=1.6, label=line.name, **style)
    if (line.low < line.high).any():
        axes.fill_between(line.x, line.low, line.high, color=line.colour, alpha=0.12, linewidth=0)


def _draw_dots(chart: Dots) -> Figure:
    labels = [point.label for point in chart.panels[0].points]
    size = (0.3 + 0.085 * max(map(len, labels)) + 2.7 * len(chart.panels), 1.6 + 0.34 * len(labels))
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(1, len(chart.panels), sharey=True, squeeze=False)[0]
    for axis, panel, limits in zip(axes, chart.panels, chart.ranges(), strict=True):
        _draw_panel(axis, panel)
        axis.set_xlim(limits)
    axes[0].set_yticks(range(len(labels)), labels)
    axes[0].set_ylim(len(labels) - 0.5, -0.5)
    figure.suptitle(chart.title, fontsize=12)
    return figure


def _draw_panel(axis: Any, panel: Panel) -> None:
    if panel.zero:
        axis.axvline(0, color=INK, linewidth=0.8)
    for y, point in enumerate(panel.points):
        colour = panel.colour if point.strong else QUIET
        axis.plot(point.dots, [y] * len(point.dots), "o", color=colour, alpha=0.35, markersize=4, markeredgewidth=0)
        if not math.isnan(point.low):
            axis.plot([point.low, point.high], [y, y], color=colour, linewidth=1.6, solid_capstyle="butt")
        axis.plot(point.value, y, "o", color=colour, markersize=6.5)
        axis.plot(point.paper, y, "D", markerfacecolor="none", markeredgecolor=INK, markersize=5.5)
    axis.set_title(panel.title, fontsize=10)
    axis.set_xlabel(panel.unit)
    axis.grid(axis="x", color="#e5e7eb", linewidth=0.7)
    axis.tick_params(axis="y", length=0)
    axis.xaxis.set_major_locator(MaxNLocator(4))


def write_charts(folder: Path, charts: Sequence[Chart]) -> list[Path]:
    """Write every chart; returns the files."""
    return [path for chart in charts for path in write_figure(folder, chart.key, draw(chart))]
