"""The charts of a run's report and of a comparison of runs."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from balance.common.metric import Row
from eval.report.charts import Panel, dumbbell_chart, forest_chart, forest_charts, frontier_chart, line_chart
from eval.report.rundata import RunData

MOST_LINES = 7  # more are told apart by nobody
FEWEST = 30  # samples of known attribute behind a concept's share that is drawn


def headline_chart(runs: Sequence[RunData]) -> str | None:
    """Bias and quality, each run's last values with intervals: what balancing did, in one picture."""
    panels = _headline_panels(runs)
    return forest_charts("Bias and quality", panels) if panels else None


def headline_charts(runs: Sequence[RunData]) -> list[str]:
    """The same as a chart each for bias and for quality."""
    return [forest_chart(*panel) for panel in _headline_panels(runs)]


def _headline_panels(runs: Sequence[RunData]) -> list[Panel]:
    panels: list[Panel] = []
    titles = {"bias": "Bias (0 is none)", "quality": "Quality (more is better)"}
    for direction, title in titles.items():
        labels = [(label, name) for label, name in runs[0].headline.items() if runs[0].direction(name) == direction]
        groups = [(run.name, [run.last(name) for _, name in labels]) for run in runs[:MOST_LINES]]
        if len(runs) == 1:
            groups.append(("before training", [runs[0].first(name) for _, name in labels]))
        if labels:
            panels.append((title, [label for label, _ in labels], groups, "", direction == "bias"))
    return panels


def data_charts(data: Row) -> list[str]:
    """Before and after inside each concept, one chart per attribute with a target: the 30 surest departures."""
    charts = []
    for attribute in data.get("inside", []):
        # By how sure the departure is: a concept of two samples has a share of 0 or 1 and says nothing.
        # Runs of earlier versions do not say how many there are; all count alike then.
        often = [row for row in attribute["rows"] if row.get("known", 0) >= FEWEST] or attribute["rows"]
        often = sorted(often, key=lambda row: -abs(row["before"] - attribute["target"]) * row.get("known", 1) ** 0.5)
        rows = [(row["concept"], row["before"], row["after"]) for row in often[:30]]
        if rows:  # in small data no concept may be borne by anybody of known attribute
            title = f"Share of {attribute['attribute']} within each concept"
            charts.append(dumbbell_chart(title, rows, "share among samples where it is known", attribute["target"]))
    return charts


def curves(runs: Sequence[RunData]) -> list[str]:
    """Every evaluated metric over the samples seen: of one run by evaluator, of several runs with a line each."""
    if len(runs) > 1:
        names = [name for name in runs[0].evaluated() if "[" not in name]
        return [_over_runs(name, runs) for name in names]
    return [_family(title, names, runs[0]) for title, names in families(runs[0]).items()]


def families(run: RunData) -> dict[str, list[str]]:
    """Metrics that belong into one chart, by its title: those of single concepts or groups of one evaluator."""
    found: dict[str, list[str]] = defaultdict(list)
    for name, rows in run.evaluated().items():
        if "/" in name and len(rows) > 1:
            evaluator, metric = name.split("/", 1)
            found[f"{evaluator}: {metric.split('[')[0].replace('_', ' ')}"].append(name)
    return dict(found)


def _family(title: str, names: list[str], run: RunData) -> str:
    names = sorted(names, key=lambda name: -abs(run.series[name][-1]["value"]))[:MOST_LINES]
    lines = [_line(label_of(name), run.series[name]) for name in names]
    return line_chart(title, [], lines, "samples seen", zero=_signed(lines), marks=run.stages())


def _over_runs(name: str, runs: Sequence[RunData]) -> str:
    lines = _lines_of_runs(runs, name)
    marks = [mark for run in runs for mark in run.stages()]
    return line_chart(name.replace("_", " "), [], lines, "samples seen", zero=_signed(lines), marks=marks)


def _lines_of_runs(runs: Sequence[RunData], name: str) -> list[dict[str, Any]]:
    """A line for each run that has the metric, in the run's colour on all charts."""
    return [
        _line(run.name, run.series[name], {0: "this", 1: "other"}.get(number, f"kind{1 + (number - 2) % 4}"))
        for number, run in enumerate(runs[:MOST_LINES])
        if run.series.get(name)
    ]


def _line(label: str, rows: Sequence[Row], role: str | None = None) -> dict[str, Any]:
    ends = all(row["low"] is not None for row in rows)
    return {
        "label": label,
        "role": role,
        "x": [row["samples"] for row in rows],
        "y": [row["value"] for row in rows],
        "low": [row["low"] for row in rows] if ends else None,
        "high": [row["high"] for row in rows] if ends else None,
    }


def _signed(lines: Sequence[dict[str, Any]]) -> bool:
    return any(min(line["y"]) < 0 for line in lines if line["y"])


def label_of(name: str) -> str:
    """What a metric is of: the part in brackets, or its own name."""
    metric = name.split("/", 1)[-1]
    return metric.split("[", 1)[1].rstrip("]") if "[" in metric else metric.replace("_", " ")


def frontier_charts(runs: Sequence[RunData], most: int = 4) -> list[str]:
    """Size of each bias of the summary against the first quality of it, a point for each evaluation."""
    first = runs[0]
    quality = [(label, name) for label, name in first.headline.items() if first.direction(name) == "quality"]
    biases = [(label, name) for label, name in first.headline.items() if first.direction(name) == "bias"]
    charts = []
    for label, name in biases[:most]:
        for y_label, y_name in quality[:1]:
            paths = []
            for run in runs[:MOST_LINES]:
                at = {row["step"]: row["value"] for row in run.series.get(y_name, [])}
                points = [(abs(r["value"]), at[r["step"]]) for r in run.series.get(name, []) if r["step"] in at]
                if points:
                    paths.append((run.name, points))
            if any(len(points) > 1 for _, points in paths):
                charts.append(frontier_chart(f"{label} against {y_label}", paths, f"size of {label}", y_label))
    return charts


def association_test_chart(runs: Sequence[RunData]) -> str | None:
    """Effect sizes of embedding association tests of several runs, with intervals; one run has the evaluator's own."""
    if len(runs) < 2:
        return None
    evaluators = runs[0].config["eval"].get("evaluators") or {}
    kinds = {name: (spec or {}).get("kind") for name, spec in evaluators.items()}
    names = [name for name in runs[0].evaluated() if "/d[" in name and kinds.get(name.split("/")[0]) == "eat"]
    if not names:
        return None
    groups = [(run.name, [run.last(name) for name in names]) for run in runs[:MOST_LINES]]
    labels = [f"{name.split('/')[0]}: {label_of(name)}" for name in names]
    return forest_chart("Embedding association tests", labels, groups, "effect size d (0 is none)", zero=True)


def accepted_chart(run: RunData) -> list[str]:
    """Share of each attribute among what was accepted, beside what the plan gives."""
    charts = []
    for name in run.series:
        if name.startswith("accepted/share["):
            label = label_of(name)
            planned = run.series.get(f"accepted/planned_share[{label}]", [])
            lines = [_line("accepted", run.series[name], "this"), _line("planned", planned, "soft")]
            charts.append(line_chart(f"Share of {label} among accepted pairs", [], lines, "samples seen"))
    return charts


def training_charts(runs: Sequence[RunData]) -> list[str]:
    """Loss, speed, and the share of time spent waiting for data."""
    titles = {
        "train/loss": "Loss",
        "train/samples_per_second": "Samples per second",
        "train/data_wait": "Share of time waiting for data",
    }
    return [
        line_chart(
            title,
            [],
            _lines_of_runs(runs, name),
            "samples seen",
            marks=runs[0].stages(),
        )
        for name, title in titles.items()
        if any(run.series.get(name) for run in runs)
    ]
