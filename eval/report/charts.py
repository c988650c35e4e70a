"""Charts as inline SVG: in the palette's colours, as wide as a phone, and each with its figures in words."""

import io
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from eval.report.palette import KINDS, OTHER, PALETTE, RUNS, THIS

INK, SOFT, LINE, PAGE = (PALETTE[name].light for name in ("ink", "soft", "line", "page"))
WIDTH = 4.2  # inches: on a phone of 390 pixels letters of 10 points come out at about 12 pixels
# For `matplotlib.rc_context`: how all charts look.
STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "counterbalance",  # the same data give the same file
    "font.family": "sans-serif",
    "font.size": 9.5,
    "figure.facecolor": PAGE,
    "axes.facecolor": PAGE,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": SOFT,
    "axes.labelcolor": INK,
    "axes.grid": True,
    "axes.axisbelow": True,
    "xtick.color": SOFT,
    "xtick.labelcolor": INK,
    "ytick.color": SOFT,
    "ytick.labelcolor": INK,
    "text.color": INK,
    "grid.color": LINE,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "legend.fontsize": 9,
}
MARKERS = ("o", "D", "s", "^", "v", "P", "X")
DASHES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (2, 1)), (0, (6, 1, 1, 1)), "-", (0, (3, 2)), (0, (1, 1)))
LETTERS = 28  # of a line in the name of a row
MOST_POINTS = 8  # of a line that are put into words

Row = Mapping[str, Any]
Group = tuple[str, Sequence[Row | None]]
Panel = tuple[str, Sequence[str], Sequence[Group], str, bool]


def to_svg(figure: Figure, title: str, words: Iterable[str] = ()) -> str:
    """A figure as an `<svg>` element with a title for screen readers, and what it shows in words.

    Args:
        figure: with a layout of its own, or else cut to what is drawn.
        title: what it shows, for people who do not see it.
        words: its figures, a line for each row or series; a page shows them below the chart when asked to.
    """
    buffer = io.StringIO()
    cut: Any = None if figure.get_layout_engine() is not None else "tight"
    figure.savefig(buffer, format="svg", bbox_inches=cut, metadata={"Date": None, "Title": title})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    head, rest = svg.split(">", 1)
    lines = escape("\n".join(words))
    words_too = f"<desc>{lines}</desc>" if lines else ""
    return f'{head} role="img" aria-label="{escape(title, quote=True)}">{words_too}{rest}'


def new_figure(title: str, height: float, width: float = WIDTH) -> Figure:
    """A figure of some inches with its title, which arranges its parts by itself."""
    figure = Figure(figsize=(width, height), layout="constrained")
    if title:
        figure.suptitle(wrapped(title, int(width * 11)), x=0.01, ha="left", fontsize=10, fontweight="bold")
    return figure


def wrapped(text: str, letters: int) -> str:
    """Text in lines of at most so many letters."""
    return "\n".join(textwrap.wrap(text, letters)) or text


def figure_text(row: Row | None) -> str:
    """A value with its interval, as the words of a chart have it."""
    if row is None:
        return "not measured"
    low, high = row.get("low"), row.get("high")
    return f"{row['value']:.3g}" + ("" if low is None or high is None else f" [{low:.3g}, {high:.3g}]")


def draw_line(
    axes: Any,
    x: Sequence[float],
    y: Sequence[float],
    ends: tuple[Sequence[float], Sequence[float]] | None,
    colour: str,
    label: str,
    number: int = 0,
) -> None:
    """A line with a mark at each of its n points and, if `ends` (low, high) are given, a band for the intervals.

    The `number` of a line gives it its marker and dash, so that colour is not all that tells lines apart.
    """
    dash, marker = DASHES[number % len(DASHES)], MARKERS[number % len(MARKERS)]
    axes.plot(x, y, color=colour, label=label, marker=marker, markersize=3.5, linewidth=1.5, linestyle=dash)
    if ends is not None:
        axes.fill_between(x, *ends, color=colour, alpha=0.18, linewidth=0)


def draw_metric(axes: Any, rows: Sequence[Row], colour: str, label: str, number: int = 0) -> None:
    """A metric's rows over the samples seen, with a band if each has an interval."""
    known = all(row.get("low") is not None for row in rows)
    ends = ([row["low"] for row in rows], [row["high"] for row in rows]) if known else None
    draw_line(axes, [row["samples"] for row in rows], [row["value"] for row in rows], ends, colour, label, number)


def legend_below(figure: Figure, axes: Any, columns: int = 2, backwards: bool = False) -> None:
    """The legend of a chart under it, where it hides nothing."""
    handles, labels = axes.get_legend_handles_labels()
    if backwards:
        handles, labels = handles[::-1], labels[::-1]
    labels = [wrapped(label, 26) for label in labels]
    figure.legend(handles, labels, ncols=columns, loc="outside lower left")


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
        series: dicts of `label`, `y` (n,), and optionally `x`, `low`, `high` (n,), and `role`, a name of the palette:
            `this`, `other` or `soft`. Others are coloured in turn; a line alone is of what the page is about.
        x_label: name of the horizontal axis.
        y_label: name of the vertical axis.
        zero: draw a line at zero, where there is no bias.
        marks: (position, words) of what happened on the way, as upright lines.
    """
    with matplotlib.rc_context(STYLE):
        figure = new_figure(title, 2.9 + 0.16 * (len(series) // 2))
        axes = figure.add_subplot()
        for number, (one, colour) in enumerate(zip(series, _colours(series), strict=True)):
            ends = (one["low"], one["high"]) if one.get("low") is not None else None
            draw_line(axes, one.get("x", x), one["y"], ends, colour, one["label"], number)
        if zero:
            axes.axhline(0, color=SOFT, linewidth=0.8)
        for at, words in marks:
            axes.axvline(at, color=SOFT, linewidth=0.8, linestyle=":")
            axes.annotate(
                words, (at, 1), xycoords=("data", "axes fraction"), fontsize=8, rotation=90, va="top", ha="right"
            )
        axes.xaxis.set_major_formatter(_thousands)
        axes.locator_params(axis="x", nbins=5)
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)
        if len(series) > 1:
            legend_below(figure, axes)
        return to_svg(figure, title, [_line_words(one, x, x_label) for one in series])


def _colours(series: Sequence[dict[str, Any]]) -> list[str]:
    """A colour for each series: that of its role, or else the kinds in turn."""
    if len(series) == 1 and not series[0].get("role"):
        return [THIS]
    colours, number = [], 0
    for one in series:
        if one.get("role"):
            colours.append(PALETTE[one["role"]].light)
        else:
            colours.append(KINDS[number % len(KINDS)])
            number += 1
    return colours


def _line_words(one: Row, x: Sequence[float], x_label: str) -> str:
    places, y, n = one.get("x", x), one["y"], len(one["y"])
    shown = (
        sorted({round(i * (n - 1) / (MOST_POINTS - 1)) for i in range(MOST_POINTS)}) if n > MOST_POINTS else range(n)
    )
    points = []
    for i in shown:
        row = {"value": y[i], **{end: one[end][i] for end in ("low", "high") if one.get(end) is not None}}
        points.append(f"{figure_text(row)} at {_thousands(float(places[i]), 0)}")
    some = f" ({len(points)} of {n} points)" if len(points) < n else ""
    return f"{one['label']}, by {x_label}{some}: {'; '.join(points) or 'no value'}"


def dumbbell_chart(title: str, rows: Sequence[tuple[str, float, float]], x_label: str, target: float | None) -> str:
    """Before and after, one row each.

    Args:
        title: heading of the chart.
        rows: (name, before, after).
        x_label: name of the horizontal axis.
        target: a line to aim at.
    """
    with matplotlib.rc_context(STYLE):
        figure = new_figure(title, 1.1 + 0.22 * len(rows))
        axes = figure.add_subplot()
        for at, (_, before, after) in enumerate(rows):
            axes.plot([before, after], [at, at], color=SOFT, linewidth=1, alpha=0.6, zorder=1)
        places = range(len(rows))
        axes.scatter([row[1] for row in rows], places, color=OTHER, label="before", zorder=2, s=26, marker="D")
        axes.scatter([row[2] for row in rows], places, color=THIS, label="after", zorder=2, s=26, marker="o")
        if target is not None:
            axes.axvline(target, color=SOFT, linewidth=0.9, linestyle="--", label="target")
        set_rows(axes, [row[0] for row in rows])
        axes.set_xlabel(x_label)
        legend_below(figure, axes, 3)
        aim = [] if target is None else [f"target: {target:.3g}"]
        return to_svg(figure, title, [*aim, *(f"{name}: before {b:.3g}, after {a:.3g}" for name, b, a in rows)])


def set_rows(axes: Any, names: Sequence[str]) -> None:
    """Name the rows of a chart, the first on top."""
    axes.set_yticks(range(len(names)), [wrapped(str(name), LETTERS) for name in names], linespacing=0.95)
    axes.set_ylim(max(len(names), 1) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)


def forest_chart(title: str, rows: Sequence[str], groups: Sequence[Group], x_label: str, zero: bool = False) -> str:
    """Values with their intervals, one row each, and side by side those of several groups.

    Args:
        title: heading of the chart.
        rows: names of the rows.
        groups: (name, for each row a dict of `value`, `low`, `high`, or None where there is no value). The first is
            what the page is about, the second what it is held against.
        x_label: name of the horizontal axis.
        zero: draw a line at zero.
    """
    with matplotlib.rc_context(STYLE):
        figure = new_figure(title, _forest_height(rows, groups))
        axes = figure.add_subplot()
        _forest(axes, rows, groups, zero)
        axes.set_xlabel(wrapped(x_label, 40))
        if len(groups) > 1:
            legend_below(figure, axes, backwards=len(groups) == 2)
        return to_svg(figure, title, _forest_words(rows, groups))


def forest_charts(title: str, panels: Sequence[Panel]) -> str:
    """Several forest charts side by side in one picture; each panel takes the arguments of `forest_chart`."""
    with matplotlib.rc_context(STYLE):
        groups = panels[0][2]
        height = max(_forest_height(rows, values) for _, rows, values, *_ in panels)
        figure = new_figure("", height, 5.2 * len(panels))
        for number, (heading, rows, values, x_label, zero) in enumerate(panels):
            axes = figure.add_subplot(1, len(panels), number + 1)
            _forest(axes, rows, values, zero)
            axes.set_title(heading, loc="left", fontsize=10, fontweight="bold")
            axes.set_xlabel(x_label)
        if len(groups) > 1:
            legend_below(figure, figure.axes[0], 3, backwards=len(groups) == 2)
        words = [f"{heading}: {line}" for heading, rows, values, *_ in panels for line in _forest_words(rows, values)]
        return to_svg(figure, title, words)


def _forest_height(rows: Sequence[str], groups: Sequence[Group]) -> float:
    lines = max(1 + wrapped(str(row), LETTERS).count("\n") for row in rows)
    row = max(0.12 + 0.1 * len(groups), 0.05 + 0.14 * lines)
    return 0.9 + 0.2 * (len(groups) > 1) * (1 + len(groups) // 3) + row * len(rows)


def _forest(axes: Any, rows: Sequence[str], groups: Sequence[Group], zero: bool) -> None:
    if zero:
        axes.axvline(0, color=SOFT, linewidth=0.8)
    for number, (name, values) in enumerate(groups):
        colour, marker = RUNS[number % len(RUNS)], MARKERS[number % len(MARKERS)]
        shift = (number - (len(groups) - 1) / 2) * 0.7 / max(len(groups), 2)
        if len(groups) == 2:  # what is held against comes first, as before comes before after
            shift = -shift
        known = [(at + shift, value) for at, value in enumerate(values) if value is not None]
        for at, value in known:
            if value.get("low") is not None:
                axes.plot([value["low"], value["high"]], [at, at], color=colour, linewidth=1.5)
        places = [at for at, _ in known]
        axes.scatter([value["value"] for _, value in known], places, color=colour, marker=marker, s=24, label=name)
    set_rows(axes, rows)


def _forest_words(rows: Sequence[str], groups: Sequence[Group]) -> list[str]:
    several = len(groups) > 1
    return [
        f"{row}: " + ", ".join(f"{name} {figure_text(values[at])}" if several else figure_text(values[at])
                               for name, values in groups)
        for at, row in enumerate(rows)
    ]  # fmt: skip


def frontier_chart(
    title: str, paths: Sequence[tuple[str, Sequence[tuple[float, float]]]], x_label: str, y_label: str
) -> str:
    """Paths of points (bias, quality), the last of each filled: up and to the left is better.

    Args:
        title: heading of the chart.
        paths: (name, points in the order of the run), the first of what the page is about.
        x_label: name of the horizontal axis.
        y_label: name of the vertical axis.
    """
    with matplotlib.rc_context(STYLE):
        figure = new_figure(title, 3.2)
        axes = figure.add_subplot()
        for number, (name, points) in enumerate(paths):
            colour, marker = RUNS[number % len(RUNS)], MARKERS[number % len(MARKERS)]
            x, y = zip(*points, strict=True)
            axes.plot(x, y, color=colour, linewidth=1, alpha=0.6)
            axes.scatter(x[:-1], y[:-1], facecolors=PAGE, edgecolors=colour, marker=marker, s=22, zorder=2)
            axes.scatter(x[-1:], y[-1:], color=colour, marker=marker, s=44, label=name, zorder=3)
        axes.set_xlabel(wrapped(f"{x_label} (less is better)", 48))
        axes.set_ylabel(wrapped(f"{y_label} (more is better)", 30))
        if len(paths) > 1:
            legend_below(figure, axes)
        words = [
            f"{name}: " + "; ".join(f"{x_label} {x:.3g}, {y_label} {y:.3g}" for x, y in points)
            for name, points in paths
        ]
        return to_svg(figure, title, words)


def _thousands(value: float, _: float) -> str:
    return f"{value:,.0f}" if value == int(value) else f"{value:g}"
