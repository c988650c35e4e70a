"""Charts of impressions: two hierarchies side by side."""

from collections.abc import Sequence

import matplotlib
from matplotlib.figure import Figure
from scipy.cluster import hierarchy

from eval.report.charts import STYLE, to_svg
from eval.report.palette import KINDS, THIS
from eval.stats import Floats


def dendrograms(
    human: Floats, model: Floats, names: Sequence[str], titles: tuple[str, str] = ("people", "model")
) -> str:
    """Two hierarchies of the same attributes, their leaves facing each other, as SVG.

    Args:
        human: (k - 1, 4) linkage of people's ratings.
        model: (k - 1, 4) linkage of the model's associations.
        names: of the k attributes.
        titles: of the two sides.
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(7.2, 1.0 + 0.18 * len(names)))
        sides = figure.subplots(1, 2, gridspec_kw={"wspace": 0.95})
        parts = zip(sides, (human, model), titles, ("left", "right"), (KINDS[1], THIS), strict=True)
        for axes, links, title, orientation, colour in parts:
            hierarchy.dendrogram(
                links,
                labels=list(names),
                ax=axes,
                orientation=orientation,
                color_threshold=0,
                above_threshold_color=colour,
                leaf_font_size=8,
            )
            axes.set_title(title, fontsize=10, fontweight="bold")
            axes.grid(False)
            axes.set_xlabel("Ward distance")
            axes.spines["left"].set_visible(False)
            axes.tick_params(axis="y", length=0)
        return to_svg(figure, f"Which attributes go together: {titles[0]} and {titles[1]}")
