"""Charts as inline SVG: legible in print, with colours that colour-blind readers tell apart."""

import io
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import matplotlib
from matplotlib.figure import Figure

# Okabe and Ito's palette, which keeps its contrasts under the common kinds of colour blindness.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
# For `matplotlib.rc_context`: how all charts look.
STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "counterbalance",  # the same data give the same file
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
}
_MARKERS = ("o", "D", "s", "^", "v", "P", "X")


def to_svg(figure: Figure, title: str) -> str:
    """A figure as an `<svg>` element with a title for screen readers."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", bbox_inches="tight", metadata={"Date": None, "Title": title})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    head, rest = svg.split(">", 1)
    return f'{head} role="img" aria-label="{escape(title, quote=True)}">{rest}'


def draw_line(
    axes: Any,
    x: Sequence[float],
    y: Sequence[float],
    ends: tuple[Sequence[float], Sequence[float]] | None,
    colour: str,
    label: str,
) -> None:
    """A line with a mark at each of its n points and, if `ends` (low, high) are given, a band for the intervals."""
    axes.plot(x, y, color=colour, label=label, marker="o", markersize=3, linewidth=1.5)
    if ends is not None:
        axes.fill_between(x, *ends, color=colour, alpha=0.18, linewidth=0)


def draw_metric(axes: Any, rows: Sequence[Mapping[str, Any]], colour: str, label: str) -> None:
    """A metric's rows over the samples seen, with a band if each has an interval."""
    known = all(row.get("low") is not None for row in rows)
    ends = ([row["low"] for row in rows], [row["high"] for row in rows]) if known else None
    draw_line(axes, [row["samples"] for row in rows], [row["value"] for row in rows], ends, colour, label)


def line_chart(
    title: str,
    x: Sequence[float],
    series: Sequence[dict[str, Any]],
    x_label: str,
    y_label: str = "",
    zero: bool = False,
    marks: Sequence[tuple[float, str]] = (),
) -> str:
    """Lines with bands for intervals.

    Args:
        title: heading of the chart.
        x: (n,) common horizontal positions, or each series brings its own as `x`.
        series: dicts of `label`, `y` (n,), and optionally `x`, `low`, `high` (n,).
        x_label: name of the horizontal axis.
        y_label: name of the vertical axis.
        zero: draw a line at zero, where there is no bias.
        marks: (position, words) of what happened on the way, as upright lines.
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(4.6, 2.9))
        axes = figure.add_subplot()
        for number, one in enumerate(series):
            ends = (one["low"], one["high"]) if one.get("low") is not None else None
            draw_line(axes, one.get("x", x), one["y"], ends, COLOURS[number % len(COLOURS)], one["label"])
        if zero:
            axes.axhline(0, color="#444444", linewidth=0.8)
        for at, words in marks:
            axes.axvline(at, color="#444444", linewidth=0.8, linestyle=":")
            axes.annotate(
                words, (at, 1), xycoords=("data", "axes fraction"), fontsize=7, rotation=90, va="top", ha="right"
            )
        axes.xaxis.set_major_formatter(_thousands)
        axes.set_title(title, loc="left", fontsize=10, fontweight="bold")
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)
        if len(series) > 1:
            # Below the chart, where it hides no line.
            axes.legend(frameon=False, fontsize=8, ncols=2, loc="upper left", bbox_to_anchor=(0, -0.2))
        return to_svg(figure, title)


def dumbbell_chart(title: str, rows: Sequence[tuple[str, float, float]], x_label: str, target: float | None) -> str:
    """Before and after, one row each.

    Args:
        title: heading of the chart.
        rows: (name, before, after).
        x_label: name of the horizontal axis.
        target: a line to aim at.
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(5.6, 0.8 + 0.24 * len(rows)))
        axes = figure.add_subplot()
        for at, (_, before, after) in enumerate(rows):
            axes.plot([before, after], [at, at], color="#999999", linewidth=1.5, zorder=1)
        places = range(len(rows))
        axes.scatter([row[1] for row in rows], places, color=COLOURS[1], label="before", zorder=2, s=26, marker="o")
        axes.scatter([row[2] for row in rows], places, color=COLOURS[0], label="after", zorder=2, s=26, marker="D")
        if target is not None:
            axes.axvline(target, color="#444444", linewidth=0.8, linestyle="--", label="target")
        axes.set_yticks(list(places), [row[0] for row in rows])
        axes.invert_yaxis()
        axes.set_title(title, loc="left", fontsize=10, fontweight="bold")
        axes.set_xlabel(x_label)
        axes.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
        return to_svg(figure, title)


Group = tuple[str, Sequence[dict[str, Any] | None]]


def forest_chart(title: str, rows: Sequence[str], groups: Sequence[Group], x_label: str, zero: bool = False) -> str:
    """Values with their intervals, one row each, and side by side those of several groups.

    Args:
        title: heading of the chart.
        rows: names of the rows.
        groups: (name, for each row a dict of `value`, `low`, `high`, or None where there is no value).
        x_label: name of the horizontal axis.
        zero: draw a line at zero.
    """
    return forest_charts(title, [(title, rows, groups, x_label, zero)])


def forest_charts(title: str, panels: Sequence[tuple[str, Sequence[str], Sequence[Group], str, bool]]) -> str:
    """Several forest charts side by side in one picture; each panel takes the arguments of `forest_chart`."""
    with matplotlib.rc_context(STYLE):
        most = max(len(rows) for _, rows, *_ in panels)
        groups = panels[0][2]
        figure = Figure(figsize=(5.6 * len(panels), 0.7 + most * (0.18 + 0.12 * len(groups))), layout="constrained")
        for number, (heading, rows, values, x_label, zero) in enumerate(panels):
            axes = figure.add_subplot(1, len(panels), number + 1)
            _forest(axes, rows, values, zero)
            axes.set_title(heading, loc="left", fontsize=10, fontweight="bold")
            axes.set_xlabel(x_label)
        if len(groups) > 1:
            handles, labels = figure.axes[0].get_legend_handles_labels()
            figure.legend(handles, labels, frameon=False, fontsize=8, ncols=3, loc="outside lower left")
        return to_svg(figure, title)


def _forest(axes: Any, rows: Sequence[str], groups: Sequence[Group], zero: bool) -> None:
    if zero:
        axes.axvline(0, color="#444444", linewidth=0.8)
    for number, (name, values) in enumerate(groups):
        colour, marker = COLOURS[number % len(COLOURS)], _MARKERS[number % len(_MARKERS)]
        shift = (number - (len(groups) - 1) / 2) * 0.7 / max(len(groups), 2)
        known = [(at + shift, value) for at, value in enumerate(values) if value is not None]
        for at, value in known:
            if value.get("low") is not None:
                axes.plot([value["low"], value["high"]], [at, at], color=colour, linewidth=1.5)
        places = [at for at, _ in known]
        axes.scatter([value["value"] for _, value in known], places, color=colour, marker=marker, s=24, label=name)
    axes.set_yticks(range(len(rows)), rows)
    axes.set_ylim(len(rows) - 0.5, -0.5)


def frontier_chart(
    title: str, paths: Sequence[tuple[str, Sequence[tuple[float, float]]]], x_label: str, y_label: str
) -> str:
    """Paths of points (bias, quality), the last of each filled: up and to the left is better.

    Args:
        title: heading of the chart.
        paths: (name, points in the order of the run).
        x_label: name of the horizontal axis.
        y_label: name of the vertical axis.
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(4.6, 3.2))
        axes = figure.add_subplot()
        for number, (name, points) in enumerate(paths):
            colour, marker = COLOURS[number % len(COLOURS)], _MARKERS[number % len(_MARKERS)]
            x, y = zip(*points, strict=True)
            axes.plot(x, y, color=colour, linewidth=1, alpha=0.6)
            axes.scatter(x[:-1], y[:-1], facecolors="white", edgecolors=colour, marker=marker, s=22, zorder=2)
            axes.scatter(x[-1:], y[-1:], color=colour, marker=marker, s=44, label=name, zorder=3)
        axes.set_title(title, loc="left", fontsize=10, fontweight="bold")
        axes.set_xlabel(f"{x_label} (less is better)")
        axes.set_ylabel(f"{y_label} (more is better)")
        axes.legend(frameon=False, fontsize=8, ncols=2, loc="upper left", bbox_to_anchor=(0, -0.2))
        return to_svg(figure, title)


def _thousands(value: float, _: float) -> str:
    return f"{value:,.0f}" if value == int(value) else f"{value:g}"
