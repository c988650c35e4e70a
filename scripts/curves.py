"""Draw metrics of runs over the samples seen, one panel a metric and one line a run, with 95 % intervals, as one SVG.

`python scripts/curves.py runs/a runs/b 'metrics=[parity_utkface/mean_parity,retrieval/image_to_text_r5]' out=x.svg`;
`labels=[...]` names the runs otherwise than by their folders, `title=...` the picture for screen readers. One run that
unlearns, held against its targets and bounds, is drawn by unlearning_curve.py.
"""

from pathlib import Path
from typing import Any

import yaml
from matplotlib import rc_context
from matplotlib.figure import Figure

from balance.errors import UserError
from balance.files import write_whole
from conf.app.command import run_command, split_paths
from eval.report.charts import STYLE, draw_metric, to_svg
from eval.report.palette import PALETTE, RUNS
from eval.report.rundata import RunData, load_run


def main(arguments: list[str]) -> int:
    """Write the picture."""
    given, folders = split_paths(arguments, ("metrics", "labels", "title", "out"))
    if not folders or "metrics" not in given:
        raise UserError("Name runs and metrics=[...]; labels=[...], title=... and out=... are the other options.")
    runs = [load_run(folder) for folder in folders]
    metrics = yaml.safe_load(given["metrics"])
    labels = yaml.safe_load(given["labels"]) if "labels" in given else [run.name for run in runs]
    if len(labels) != len(runs):
        raise UserError(f"{len(labels)} labels for {len(runs)} runs; give one each.")
    print(f"Picture: {write_whole(Path(given.get('out', 'curves.svg')), draw(runs, labels, metrics, given))}")
    return 0


def draw(runs: list[RunData], labels: list[str], metrics: list[str], given: dict[str, str]) -> str:
    """One panel per metric, one line per run."""
    with rc_context(STYLE):
        figure = Figure(figsize=(3.9 * len(metrics), 3.1))
        panels: Any = figure.subplots(1, len(metrics), squeeze=False)[0]
        for axes, metric in zip(panels, metrics, strict=True):
            for number, (run, label) in enumerate(zip(runs, labels, strict=True)):
                _line(axes, run, label, metric, RUNS[number % len(RUNS)], number)
            axes.set_title(metric.replace("/", ": ").replace("_", " "), loc="left", fontsize=9)
            axes.set_xlabel("samples seen")
            axes.xaxis.set_major_formatter("{x:,.0f}")
            axes.axhline(0, color=PALETTE["soft"].light, linewidth=0.8)
        handles, names = panels[0].get_legend_handles_labels()
        figure.legend(handles, names, loc="upper left", bbox_to_anchor=(0, 0), frameon=False, fontsize=8, ncols=2)
        figure.tight_layout()
        return to_svg(figure, given.get("title", " and ".join(metrics)))


def _line(axes: Any, run: RunData, label: str, metric: str, colour: str, number: int) -> None:
    rows = run.evaluated().get(metric)
    if not rows:
        raise UserError(f"{run.folder} has not measured {metric}.")
    draw_metric(axes, rows, colour, label, number)


if __name__ == "__main__":
    run_command(main, __doc__, keys=False)
