"""What balance costs: keep rate, effective sample size and tolerance against the bias that remains.

`python scripts/frontier.py attributes=<files> out=<folder> balance.max_repeat=2` takes the settings of scripts/solve.py
and writes `frontier.csv` and `frontier.svg`. Each point is an exact plan, warm-started from its neighbour.
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib import pyplot as plt

if __name__ == "__main__":  # the project's folder, whichever folder the command runs in
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from balance import Cells, Plan, Problem, solve
from balance.files import whole_file
from balance.m4.counting import count_parquet
from balance.progress import ProgressLine
from conf.app.command import run_command
from scripts.solve import read_settings

matplotlib.use("Agg")
TOLERANCES = (0.0, 0.01, 0.02, 0.05, 0.1, 0.2)
COLUMNS = (
    "eps_association",
    "keep",
    "rb",
    "worst_gap",
    "ab",
    "effective",
    "effective_per_epoch",
    "kept_smallest",
    "unmet",
    "gap",
)


def point(plan: Plan, tolerance: float) -> dict[str, float]:
    """One row of the table."""
    summary = plan.summary()
    worst = plan.after.worst_concept(among=plan.constrained)
    return {
        "eps_association": tolerance,
        "keep": plan.keep,
        "rb": plan.after.representation_bias,
        "worst_gap": abs(worst[2]) if worst else 0.0,
        "ab": plan.after.association_bias,
        "effective": plan.effective_sample_size / plan.cells.total,
        "effective_per_epoch": plan.effective_per_epoch / plan.cells.total,
        "kept_smallest": float(summary["kept_smallest"] or np.nan),
        "unmet": float(len(plan.violations)),
        "gap": plan.gap,
    }


def sweep(cells: Cells, problem: Problem, keeps: Sequence[float]) -> list[dict[str, float]]:
    """A plan for each tolerance and keep rate."""
    rows = []
    with ProgressLine("frontier", len(TOLERANCES) * len(keeps), "plans") as line:
        for tolerance in TOLERANCES:
            plan = None
            for keep in keeps:
                asked = replace(problem, keep=keep, eps_association=tolerance)
                plan = solve(cells, asked, warm_start=plan)
                rows.append(point(plan, tolerance))
                line.update(1)
    return rows


def draw(rows: list[dict[str, float]], path: Path) -> None:
    """Three panels over the keep rate, one line a tolerance."""
    figure, axes = plt.subplots(1, 3, figsize=(13, 4), layout="constrained")
    labels = ("largest gap inside a concept", "representation bias RB", "effective sample size (Kish), share of all")
    colours = plt.get_cmap("viridis")(np.linspace(0, 0.9, len(TOLERANCES)))
    for tolerance, colour in zip(TOLERANCES, colours, strict=True):
        line = [row for row in rows if row["eps_association"] == tolerance]
        for axis, column in zip(axes, ("worst_gap", "rb", "effective"), strict=True):
            axis.plot([row["keep"] for row in line], [row[column] for row in line], "o-", ms=3, color=colour)
    for axis, label in zip(axes, labels, strict=True):
        axis.set_xlabel("keep rate")
        axis.set_ylabel(label)
        axis.set_ylim(bottom=0)
        axis.grid(alpha=0.3)
    handles = [plt.Line2D([], [], color=c, label=f"{t:g}") for t, c in zip(TOLERANCES, colours, strict=True)]
    axes[0].legend(handles=handles, title="tolerance", frameon=False)
    with whole_file(path) as part:
        figure.savefig(part, format="svg")
    plt.close(figure)


def main(overrides: list[str]) -> None:
    """Count, sweep, write."""
    settings, balance = read_settings(overrides)
    for key in ("method", "mode"):
        balance.pop(key, None)
    problem = Problem.from_dict(balance)
    options: dict[str, Any] = {name: settings[name] for name in ("memory_limit", "threads", "bins")}
    cells = count_parquet(settings["attributes"], temp_directory=settings["temp"], **options)
    keeps = np.round(np.linspace(0.1, min(1.0, problem.max_repeat), 10), 4).tolist()
    rows = sweep(cells, problem, keeps)
    out = Path(settings["out"])
    with whole_file(out / "frontier.csv") as part, part.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    draw(rows, out / "frontier.svg")
    print(f"{len(rows)} plans in {out}/frontier.csv and {out}/frontier.svg")


if __name__ == "__main__":
    run_command(main, __doc__)
