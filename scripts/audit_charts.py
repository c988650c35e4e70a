"""Charts of an audit: made for looking, in colours that colour-blind readers tell apart."""

from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.colors import TwoSlopeNorm
from matplotlib.figure import Figure
from numpy.typing import NDArray

from balance.audit import DataBias
from balance.intervals import Estimates
from eval.report.charts import COLOURS, STYLE, to_svg

Floats = NDArray[np.float64]
ORANGE, BLUE = COLOURS[1], COLOURS[0]


def heat_map(title: str, rows: Sequence[str], columns: Sequence[str], values: Floats, counts: Floats) -> str:
    """Representation gap by concept (rows) and attribute (columns), the number written into each field.

    Args:
        title: heading.
        rows: n concepts.
        columns: m attributes.
        values: (n, m) E[s given y] - pi, NaN where no sample is known.
        counts: (n, m) known samples; fields with fewer than 10 are drawn pale.
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(2.2 + 0.85 * len(columns), 1.1 + 0.235 * len(rows)))
        axes = figure.add_subplot()
        limit = max(0.1, float(np.nanmax(np.abs(values))))
        shades = matplotlib.colormaps["PuOr_r"].with_extremes(bad="#f2f2f2")  # diverging, safe for colour blindness
        alpha = np.where(counts < 10, 0.35, 1.0)
        axes.imshow(values, cmap=shades, norm=TwoSlopeNorm(0, -limit, limit), aspect="auto", alpha=alpha)
        for i, j in np.ndindex(values.shape):
            if np.isfinite(values[i, j]):
                dark = abs(values[i, j]) > 0.65 * limit and counts[i, j] >= 10
                axes.text(j, i, f"{values[i, j]:+.2f}", ha="center", va="center", fontsize=7,
                          color="white" if dark else "#222222")  # fmt: skip
        axes.set_xticks(range(len(columns)), [name.replace("=", "=\n") for name in columns], fontsize=8)
        axes.xaxis.tick_top()
        axes.set_yticks(range(len(rows)), rows, fontsize=8)
        axes.tick_params(length=0)
        axes.grid(False)
        axes.spines[:].set_visible(False)
        axes.set_title(title, loc="left", fontsize=10, fontweight="bold", pad=10)
        return to_svg(figure, title)


def interval_chart(
    title: str,
    names: Sequence[str],
    series: Sequence[tuple[str, Estimates]],
    places: Sequence[tuple[int, ...]],
    x_label: str,
    target: float | None,
) -> str:
    """Dots with intervals, one row a name; two series (before and after) make dumbbells.

    Args:
        title: heading.
        names: n row names.
        series: (label, estimates), one or two of them.
        places: n indices into the estimates.
        x_label: name of the horizontal axis.
        target: a line to aim at.
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(6.4, 0.9 + 0.25 * len(names)))
        axes = figure.add_subplot()
        heights = np.arange(len(names), dtype=float)
        values = [np.array([one.value[place] for place in places]) for _, one in series]
        if len(series) == 2:
            for height, left, right in zip(heights, *values, strict=True):
                axes.plot([left, right], [height, height], color="#bbbbbb", linewidth=3, zorder=1)
        for number, ((label, one), value) in enumerate(zip(series, values, strict=True)):
            low = np.array([one.low[place] for place in places])
            high = np.array([one.high[place] for place in places])
            colour, marker = ((ORANGE, "o"), (BLUE, "D"))[number]
            shift = 0.0 if len(series) == 1 else (-0.14, 0.14)[number]
            axes.hlines(heights + shift, low, high, color=colour, linewidth=1.2, zorder=2)
            axes.scatter(value, heights + shift, color=colour, marker=marker, s=22, zorder=3, label=label)
        if target is not None:
            axes.axvline(target, color="#444444", linewidth=0.9, linestyle="--", zorder=0)
        axes.set_yticks(heights, names, fontsize=8)
        axes.set_ylim(len(names) - 0.4, -0.6)
        axes.set_xlabel(x_label)
        axes.set_title(title, loc="left", fontsize=10, fontweight="bold")
        if len(series) > 1:
            axes.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
        return to_svg(figure, title)


def rate_chart(title: str, rates: Floats, counts: Floats, known: Any) -> str:
    """How many samples get which rate, those with known attributes and those without apart."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(5.2, 2.9))
        axes = figure.add_subplot()
        axes.set_axisbelow(True)
        edges = np.linspace(0, max(1.0, float(rates.max())) * 1.0001, 41).tolist()
        axes.hist([rates[known], rates[~known]], edges, weights=[counts[known], counts[~known]], stacked=True,
                  color=[BLUE, COLOURS[4]], label=["attribute known", "all attributes unknown"])  # fmt: skip
        axes.set_xlabel("rate (1 = used once an epoch)")
        axes.set_ylabel("samples")
        axes.set_title(title, loc="left", fontsize=10, fontweight="bold")
        axes.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
        return to_svg(figure, title)


def bar_chart(title: str, rows: Sequence[tuple[str, float]], x_label: str, line: float | None = None) -> str:
    """Horizontal bars with their numbers."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(5.6, 0.8 + 0.25 * len(rows)))
        axes = figure.add_subplot()
        values = [value for _, value in rows]
        axes.set_axisbelow(True)
        axes.barh(range(len(rows)), values, color=BLUE, height=0.65)
        for at, value in enumerate(values):
            axes.text(value, at, f" {value:.3g}", va="center", fontsize=7)
        if line is not None:
            axes.axvline(line, color="#444444", linewidth=0.9, linestyle="--")
        axes.set_yticks(range(len(rows)), [name for name, _ in rows], fontsize=8)
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.set_xlabel(x_label)
        axes.set_title(title, loc="left", fontsize=10, fontweight="bold")
        return to_svg(figure, title)


def heat_map_rows(bias: DataBias, top: int, least: float = 10) -> list[int]:
    """The concepts with the largest gap in the columns that have a wanted share; where enough are known."""
    gap = np.abs(bias.concept_share.value - bias.pi[:, None])
    gap = np.where(bias.known_count >= least, gap, np.nan)[bias.wanted]
    filled = np.where(np.isnan(gap).all(axis=0), -1.0, np.nanmax(np.nan_to_num(gap, nan=-1.0), axis=0))
    order = np.argsort(-filled, kind="stable")
    return [int(r) for r in order[:top] if filled[r] >= 0]
