"""Charts of an audit: made for looking, in the palette's colours."""

from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from balance.audit import DataBias
from balance.intervals import Estimates
from eval.report.charts import (
    LINE,
    MARKERS,
    SOFT,
    STYLE,
    WIDTH,
    figure_text,
    legend_below,
    new_figure,
    set_rows,
    to_svg,
)
from eval.report.palette import KINDS, OTHER, PALETTE, THIS

Floats = NDArray[np.float64]
WIDE = 4.8  # inches, of charts with long names of rows
DATA = {"before": (OTHER, "D"), "after": (THIS, "o")}  # colour and marker, as on the other pages
FEW_KNOWN = 10
MOST_OPAQUE = 0.5  # leaves the figure in a field legible on either background


def heat_map(title: str, rows: Sequence[str], columns: Sequence[str], values: Floats, counts: Floats) -> str:
    """Representation gap by concept (rows) and attribute (columns), the number written into each field.

    Fields are one of two colours, more or less opaque, so that they suit a light page and a dark one.

    Args:
        title: heading.
        rows: n concepts.
        columns: m attributes.
        values: (n, m) E[s given y] - pi, NaN where no sample is known.
        counts: (n, m) known samples; fields with fewer than 10 are drawn pale.
    """
    with matplotlib.rc_context(STYLE):
        figure = new_figure(title, 1.2 + 0.25 * len(rows), max(WIDTH, 2.0 + 0.75 * len(columns)))
        axes = figure.add_subplot()
        limit = max(0.1, float(np.nanmax(np.abs(values))))
        for i, j in np.ndindex(values.shape):
            if not np.isfinite(values[i, j]):
                continue
            opacity = MOST_OPAQUE * abs(values[i, j]) / limit * (1.0 if counts[i, j] >= FEW_KNOWN else 0.35)
            colour = PALETTE["over" if values[i, j] > 0 else "under"].light
            axes.add_patch(Rectangle((j - 0.5, i - 0.5), 1, 1, facecolor=colour, alpha=opacity, linewidth=0))
            axes.text(j, i, f"{values[i, j]:+.2f}", ha="center", va="center", fontsize=9)
        axes.set_xlim(-0.5, len(columns) - 0.5)
        axes.set_xticks(range(len(columns)), [name.replace("=", "=\n") for name in columns], fontsize=9)
        axes.xaxis.tick_top()
        axes.tick_params(length=0)
        set_rows(axes, rows)
        axes.grid(False)
        axes.spines[:].set_visible(False)
        return to_svg(figure, title, [_heat_words(*row, columns) for row in zip(rows, values, counts, strict=True)])


def _heat_words(name: str, values: Floats, counts: Floats, columns: Sequence[str]) -> str:
    cells = (
        f"{column} {value:+.2f} ({count:,.0f} known)"
        for column, value, count in zip(columns, values, counts, strict=True)
        if np.isfinite(value)
    )
    return f"{name}: {', '.join(cells)}"


def interval_chart(
    title: str,
    names: Sequence[str],
    series: Sequence[tuple[str, Estimates]],
    places: Sequence[tuple[int, ...]],
    x_label: str,
    target: float | None,
) -> str:
    """Dots with intervals, one row a name; two series make dumbbells.

    Args:
        title: heading.
        names: n row names.
        series: (label, estimates), one or two of them. Those called before and after have the colours of these.
        places: n indices into the estimates.
        x_label: name of the horizontal axis.
        target: a line to aim at.
    """
    with matplotlib.rc_context(STYLE):
        figure = new_figure(title, 1.1 + 0.26 * len(names), WIDE)
        axes = figure.add_subplot()
        heights = np.arange(len(names), dtype=float)
        values = [np.array([one.value[place] for place in places]) for _, one in series]
        words: list[list[str]] = [[] for _ in names]
        if len(series) == 2:
            for height, left, right in zip(heights, *values, strict=True):
                axes.plot([left, right], [height, height], color=LINE, linewidth=3, zorder=1)
        for number, ((label, one), value) in enumerate(zip(series, values, strict=True)):
            low = np.array([one.low[place] for place in places])
            high = np.array([one.high[place] for place in places])
            colour, marker = DATA.get(label, (KINDS[number], MARKERS[2 + number]))
            shift = 0.0 if len(series) == 1 else (-0.14, 0.14)[number]
            axes.hlines(heights + shift, low, high, color=colour, linewidth=1.2, zorder=2)
            axes.scatter(value, heights + shift, color=colour, marker=marker, s=22, zorder=3, label=label)
            for line, *row in zip(words, value, low, high, strict=True):
                line.append(f"{label} {figure_text(dict(zip(('value', 'low', 'high'), row, strict=True)))}")
        if target is not None:
            axes.axvline(target, color=SOFT, linewidth=0.9, linestyle="--", zorder=0)
        set_rows(axes, names)
        axes.set_xlabel(x_label)
        if len(series) > 1:
            legend_below(figure, axes)
        lines = [f"{name}: {', '.join(line)}" for name, line in zip(names, words, strict=True)]
        return to_svg(figure, title, lines if target is None else [f"line: {target:.3g}", *lines])


def rate_chart(title: str, rates: Floats, counts: Floats, known: Any) -> str:
    """How many samples get which rate, those with known attributes and those without apart."""
    with matplotlib.rc_context(STYLE):
        figure = new_figure(title, 3.0)
        axes = figure.add_subplot()
        edges = np.linspace(0, max(1.0, float(rates.max())) * 1.0001, 41).tolist()
        parts = {"attribute known": known, "all attributes unknown": ~known}
        axes.hist([rates[part] for part in parts.values()], edges, weights=[counts[part] for part in parts.values()],
                  stacked=True, color=[KINDS[0], KINDS[1]], label=list(parts))  # fmt: skip
        axes.set_xlabel("rate (1 = used once an epoch)")
        axes.set_ylabel("samples")
        axes.yaxis.set_major_formatter("{x:,.0f}")
        legend_below(figure, axes)
        words = [
            f"{label}: {counts[part].sum():,.0f} samples"
            + (f", mean rate {np.average(rates[part], weights=counts[part]):.3g}" if counts[part].sum() else "")
            for label, part in parts.items()
        ]
        return to_svg(figure, title, words)


def bar_chart(title: str, rows: Sequence[tuple[str, float]], x_label: str, line: float | None = None) -> str:
    """Horizontal bars with their numbers."""
    with matplotlib.rc_context(STYLE):
        figure = new_figure(title, 1.0 + 0.25 * len(rows), WIDE)
        axes = figure.add_subplot()
        values = [value for _, value in rows]
        axes.barh(range(len(rows)), values, color=THIS, height=0.65)
        for at, value in enumerate(values):
            axes.text(value, at, f" {value:.3g}", va="center", fontsize=9)
        if line is not None:
            axes.axvline(line, color=SOFT, linewidth=0.9, linestyle="--")
        axes.margins(x=0.12)
        set_rows(axes, [name for name, _ in rows])
        axes.set_xlabel(x_label)
        return to_svg(figure, title, [f"{name}: {value:.3g}" for name, value in rows])


def heat_map_rows(bias: DataBias, top: int, least: float = 10) -> list[int]:
    """The concepts with the largest gap in the columns that have a wanted share; where enough are known."""
    gap = np.abs(bias.concept_share.value - bias.pi[:, None])
    gap = np.where(bias.known_count >= least, gap, np.nan)[bias.wanted]
    filled = np.where(np.isnan(gap).all(axis=0), -1.0, np.nanmax(np.nan_to_num(gap, nan=-1.0), axis=0))
    order = np.argsort(-filled, kind="stable")
    return [int(r) for r in order[:top] if filled[r] >= 0]
