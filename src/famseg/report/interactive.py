"""Figures for plotly.js, as plain values."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from famseg.report.charts import INK, QUIET, Chart, Dots, Line, Lines, Panel

_FONT = {"family": "system-ui, sans-serif", "size": 13, "color": INK}
_GRID = "#e5e7eb"


def figure(chart: Chart) -> dict[str, Any]:
    """`data` and `layout` of a chart, ready for `Plotly.newPlot`."""
    return _lines(chart) if isinstance(chart, Lines) else _dots(chart)


def _lines(chart: Lines) -> dict[str, Any]:
    traces = [trace for line in chart.lines for trace in _line(line)]
    layout = {
        "xaxis": {"title": {"text": chart.x_label}, "gridcolor": _GRID, "rangemode": "tozero"},
        "yaxis": {"title": {"text": chart.y_label}, "gridcolor": _GRID},
        "hovermode": "x unified",
        "height": 460,
        "updatemenus": [_scale_menu()],
    }
    return {"data": traces, "layout": _common(layout)}


def _line(line: Line) -> list[dict[str, Any]]:
    x, band = line.x.tolist(), bool((line.low < line.high).any())
    common = {"legendgroup": line.name, "name": line.name}
    curve = {
        "type": "scatter",
        "mode": "lines+markers" if len(x) < 3 else "lines",
        "x": x,
        "y": _plain(line.y.tolist()),
        "line": {"color": line.colour, "dash": line.dash, "width": 2},
        **common,
    }
    if not band:
        return [curve]
    outline = _plain([*line.high.tolist(), *line.low.tolist()[::-1]])
    area = {"type": "scatter", "x": [*x, *x[::-1]], "y": outline, "fill": "toself", "fillcolor": f"{line.colour}1f"}
    return [area | {"mode": "lines", "line": {"width": 0}, "hoverinfo": "skip", "showlegend": False, **common}, curve]


def _scale_menu() -> dict[str, Any]:
    buttons = [
        {"label": name, "method": "relayout", "args": [{"yaxis.type": kind}]}
        for name, kind in (("linear", "linear"), ("logarithmic", "log"))
    ]
    return {"type": "buttons", "direction": "right", "buttons": buttons, "x": 0, "xanchor": "left", "y": 1.12}


def _dots(chart: Dots) -> dict[str, Any]:
    labels = [point.label for point in chart.panels[0].points]
    layout: dict[str, Any] = {
        "yaxis": {
            "tickvals": list(range(len(labels))),
            "ticktext": labels,
            "range": [len(labels) - 0.5, -0.5],
            "automargin": True,
            "zeroline": False,
        },
        "height": 165 + 30 * len(labels),
        "showlegend": False,
        "annotations": [],
    }
    traces: list[dict[str, Any]] = []
    count = len(chart.panels)
    for i, (panel, limits) in enumerate(zip(chart.panels, chart.ranges(), strict=True)):
        number = str(i + 1) if i else ""
        domain = [i / count + (0.015 if i else 0), (i + 1) / count - (0.015 if i + 1 < count else 0)]
        layout[f"xaxis{number}"] = {
            "domain": domain,
            "range": list(limits),
            "gridcolor": _GRID,
            "zeroline": panel.zero,
            "zerolinecolor": INK,
            "title": {"text": panel.unit},
            "nticks": 5,
        }
        heading = {
            "text": f"<b>{panel.title}</b>".replace("\n", "<br>"),
            "x": sum(domain) / 2,
            "y": 1.0,
            "xanchor": "center",
            "yanchor": "bottom",
        }
        layout["annotations"].append(heading | {"xref": "paper", "yref": "paper", "showarrow": False})
        traces += [trace | {"xaxis": f"x{number}", "yaxis": "y"} for trace in _panel(panel)]
    return {"data": traces, "layout": _common(layout)}


def _panel(panel: Panel) -> list[dict[str, Any]]:
    places = range(len(panel.points))
    colours = [panel.colour if point.strong else QUIET for point in panel.points]
    middle = [_number(point.value) for point in panel.points]
    known = [not math.isnan(point.low) for point in panel.points]
    points = {
        "type": "scatter",
        "mode": "markers",
        "x": middle,
        "y": list(places),
        "marker": {"color": colours, "size": 10},
        "text": [_hover(panel.unit, point.label, point.value, point.low, point.high) for point in panel.points],
        "hovertemplate": "%{text}<extra></extra>",
    }
    bars = [
        {
            "type": "scatter",
            "mode": "lines",
            "x": [point.low, point.high],
            "y": [y, y],
            "line": {"color": colours[y], "width": 2.5},
            "hoverinfo": "skip",
        }
        for y, point in enumerate(panel.points)
        if known[y]
    ]
    runs = _markers([(x, y) for y, point in enumerate(panel.points) for x in point.dots], "run", panel)
    runs["marker"] = {"color": panel.colour, "size": 6, "opacity": 0.35}
    paper = _markers([(p.paper, y) for y, p in enumerate(panel.points) if not math.isnan(p.paper)], "paper", panel)
    paper["marker"] = {"color": INK, "size": 9, "symbol": "diamond-open"}
    return [*bars, runs, points, paper]


def _markers(points: Sequence[tuple[float, float]], name: str, panel: Panel) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "markers",
        "x": [x for x, _ in points],
        "y": [y for _, y in points],
        "hovertemplate": f"{name}: %{{x:.2f}} {panel.unit}<extra></extra>",
    }


def _hover(unit: str, label: str, value: float, low: float, high: float) -> str:
    text = f"{label}: {value:.2f} {unit}"
    return text if math.isnan(low) else f"{text} ({low:.2f} to {high:.2f})"


def _common(layout: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "font": _FONT,
        "paper_bgcolor": "#fff",
        "plot_bgcolor": "#fff",
        "margin": {"l": 60, "r": 20, "t": 60, "b": 50},
        **layout,
    }


def _plain(values: Sequence[float]) -> list[float | None]:
    return [_number(value) for value in values]


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None
