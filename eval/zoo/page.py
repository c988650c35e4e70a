"""The page of a zoo's analysis: coefficients, correlations and contrasts, and every model as a point."""

from dataclasses import dataclass, field
from typing import Any

import matplotlib
import pandas as pd

from eval.report.charts import MARKERS, STYLE, forest_chart, legend_below, new_figure, to_svg
from eval.report.page import render_page
from eval.report.palette import KINDS
from eval.zoo.regression import Fit

MOST = 30  # rows of a chart
COLUMNS = ("dataset", "dataset_size", "architecture_family", "parameters", "loss", "balance", "seed")


@dataclass
class Analysis:
    """What was found over a zoo.

    Attributes:
        table: the zoo's rows.
        mixed: the mixed model of effect sizes, if there could be one.
        impressions: coefficients of the regression of impressions, if there could be one.
        quality: the name of the quality.
        correlations: of every measure with it.
        contrast_of: what is contrasted, in words.
        contrast: a row per measure.
        notes: a sentence each.
    """

    table: pd.DataFrame
    mixed: Fit | None = None
    impressions: pd.DataFrame | None = None
    quality: str = ""
    correlations: pd.DataFrame | None = None
    contrast_of: str = ""
    contrast: pd.DataFrame | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def models(self) -> list[dict[str, Any]]:
        """A row per model with its facts."""
        known = [column for column in COLUMNS if column in self.table]
        rows = self.table.drop_duplicates("model")[["model", *known]]
        return [dict(row) for row in rows.astype(object).where(rows.notna(), None).to_dict("records")]


def render_analysis(found: Analysis) -> str:
    """The page as HTML."""
    charts = {}
    if found.mixed is not None:
        rows = found.mixed.table[found.mixed.table["term"] != "Intercept"].rename(columns={"coefficient": "value"})
        charts["mixed"] = _forest("Fixed effects on d", list(rows["term"]), rows, "coefficient, 95 % interval")
    if found.correlations is not None and len(found.correlations):
        rows = found.correlations.head(MOST).rename(columns={"r": "value"})
        charts["correlations"] = _forest(f"Correlation with {found.quality}", list(rows["name"]), rows, "Pearson's r")
    if found.quality:
        charts["points"] = _points(found)
    known = [column for column in COLUMNS if any(row.get(column) is not None for row in found.models)]
    return render_page("zoo.html", found=found, charts=charts, columns=known, tables=_tables(found))


def _forest(title: str, names: list[str], rows: pd.DataFrame, label: str) -> str:
    return forest_chart(title, names, [("", rows.to_dict("records"))], label, zero=True)


def _points(found: Analysis) -> str:
    """Mean size of the association effects against quality, a point per model, by data set."""
    sizes = found.table[found.table["name"].str.endswith("/mean_size")].groupby("model")["value"].mean()
    quality = found.table[found.table["name"] == found.quality].set_index("model")["value"]
    facts = found.table.drop_duplicates("model").set_index("model")
    families = facts["dataset_family"] if "dataset_family" in facts else pd.Series("", index=facts.index)
    title, words = "Each model: size of association effects against quality", []
    with matplotlib.rc_context(STYLE):
        figure = new_figure(title, 3.4)
        axes = figure.add_subplot()
        for number, (family, members) in enumerate(families.fillna("unknown").groupby(families.fillna("unknown"))):
            both = pd.concat([quality, sizes], axis=1, join="inner").reindex(members.index).dropna()
            x, y = both.iloc[:, 0], both.iloc[:, 1]
            axes.scatter(
                x, y, label=str(family), color=KINDS[number % len(KINDS)], marker=MARKERS[number % len(MARKERS)]
            )
            words += [
                f"{model} ({family}): {found.quality} {one:.3g}, mean |d| {size:.3g}"
                for model, one, size in zip(both.index, x, y, strict=True)
            ]
        axes.set_xlabel(found.quality)
        axes.set_ylabel("mean |d| of association tests")
        legend_below(figure, axes)
        return to_svg(figure, title, words)


def _tables(found: Analysis) -> list[tuple[str, str, list[str], list[dict[str, Any]]]]:
    """Key, caption, columns and rows of each table."""
    every = (
        ("mixed", "Fixed effects of the mixed model.", found.mixed.table if found.mixed else None),
        ("impressions", "OLS: similarity of impressions to people's, over models and attributes.", found.impressions),
        ("correlations", f"Pearson's r with {found.quality}; q is p adjusted for all rows.", found.correlations),
        ("contrast", f"{found.contrast_of}; q is the t-test's p adjusted for all rows.", found.contrast),
    )
    return [
        (key, caption, list(table.columns), [dict(row) for row in table.to_dict("records")])
        for key, caption, table in every
        if table is not None
    ]
