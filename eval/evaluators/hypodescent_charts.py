"""Curves along morph series, for a suite's page."""

from eval.evaluators.hypodescent_measures import GroupMeasures
from eval.report.charts import line_chart

X_LABEL = "share of the minority face, %"
MIDDLE = [(50.0, "equal shares")]


def draw(measured: list[GroupMeasures]) -> dict[str, str]:
    """Title -> SVG: the minority label's share, valence, and each group's cosines with the labels."""
    shares = [
        {
            "label": one.group.name,
            "x": 100 * one.group.shares,
            "y": [100 * m.value for m in one.curve],
            "low": None if one.curve[0].low is None else [100 * (m.low or 0) for m in one.curve],
            "high": None if one.curve[0].high is None else [100 * (m.high or 0) for m in one.curve],
        }
        for one in measured
    ]
    valence = [
        {"label": one.group.name, "x": 100 * one.group.shares, "y": one.valence.mean(axis=0)} for one in measured
    ]
    title = "Faces named by the minority label"
    pages = {title: line_chart(title, [], shares, X_LABEL, "% of faces", marks=MIDDLE)}
    title = "Unpleasant over pleasant words"
    pages[title] = line_chart(title, [], valence, X_LABEL, "effect size", zero=True, marks=MIDDLE)
    for one in measured:
        lines = [
            {"label": prompt.removeprefix("a photo of "), "x": 100 * one.group.shares, "y": cosines.mean(axis=0)}
            for prompt, cosines in one.cosines.items()
        ]
        title = f"Mean cosine with each label: {one.group.name}"
        pages[title] = line_chart(title, [], lines, X_LABEL, "cosine", marks=MIDDLE)
    return pages
