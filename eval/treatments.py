"""Differences between treatments over seeds: runs that differ in nothing but their seed are one treatment."""

import re
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import stats

from eval.report.rundata import RunData

# What two runs of one treatment may differ in, beside the seed.
INCIDENTAL = ("name", "runs", "seed", "resume", "overwrite", "track", "device", "keep_checkpoints", "checkpoint")
MOST_OF_NAME = 40
FEWEST_SEEDS = 3  # that a difference must be shown on
LEVEL = 0.05


def treatments(runs: Sequence[RunData]) -> dict[str, dict[int, RunData]]:
    """Runs by what was done and by seed: those whose configurations agree but for names, seeds and folders.

    A start or a folder that is named by its seed (`runs/biased-s1`) counts as the same for all seeds. A treatment is
    called by the common beginning of its runs' names.
    """
    found: dict[str, dict[int, RunData]] = defaultdict(dict)
    for run in runs:
        key = repr({name: value for name, value in sorted(run.config.items()) if name not in INCIDENTAL})
        key = re.sub(r"-s\d+\b", "", key)
        found[key].setdefault(int(run.config.get("seed", 0)), run)
    return {_common(list(by_seed.values())): by_seed for by_seed in found.values()}


def _common(runs: Sequence[RunData]) -> str:
    """The beginning that the runs' names share."""
    names = [run.name for run in runs]
    shortest = min(names, key=len)
    length = next((i for i in range(len(shortest)) if len({name[i] for name in names}) > 1), len(shortest))
    return shortest[:length].rstrip("-_s.") or names[0][:MOST_OF_NAME]


def paired_table(runs: Sequence[RunData]) -> list[dict[str, Any]]:
    """Paired statistics of each metric of the summary, for each two treatments that share at least two seeds.

    Of bias the sizes are compared, so that less is better whichever side it leans to.

    Returns:
        Rows of `label`, `first`, `second` (treatments), `n` seeds, `mean` difference first - second, `low` and `high`
        of its 95 % interval by Student's t, `p_t` of the paired t-test, `p_wilcoxon` of the signed-rank test, None
        where all differences are 0, and `verdict`. With n seeds Wilcoxon's p can't fall below 2^(1 - n), so that the
        verdict is by the t-test, corrected by Holm for all rows.
    """
    groups, rows = treatments(runs), []
    names = list(groups)
    for i, first in enumerate(names):
        for second in names[i + 1 :]:
            seeds = sorted(set(groups[first]) & set(groups[second]))
            for label, metric in runs[0].headline.items():
                pairs = [(groups[first][seed].last(metric), groups[second][seed].last(metric)) for seed in seeds]
                size = abs if runs[0].direction(metric) == "bias" else float
                differences = np.array([size(one["value"]) - size(two["value"]) for one, two in pairs if one and two])
                if len(differences) >= 2:
                    rows.append({"label": label, "first": first, "second": second, **_statistics(differences)})
    for row, p in zip(rows, holm([1.0 if row["p_t"] is None else row["p_t"] for row in rows]), strict=True):
        row["verdict"] = _verdict(row, p)
    return rows


def holm(p: Sequence[float]) -> list[float]:
    """P-values corrected by Holm for that many tests, in their order."""
    order = np.argsort(p)
    raised = np.maximum.accumulate([(len(p) - place) * p[row] for place, row in enumerate(order)])
    found = np.empty(len(p))
    found[order] = np.minimum(raised, 1)
    return [float(one) for one in found]


def _verdict(row: dict[str, Any], p: float) -> str:
    if row["p_t"] is None and row["mean"]:
        return "cannot be told: all seeds differ by the same"
    if row["n"] < FEWEST_SEEDS:
        return f"cannot be told: {row['n']} seeds"
    if p >= LEVEL:
        return "no difference shown"
    return f"{row['first']} is {'lower' if row['mean'] < 0 else 'higher'}"


def _statistics(differences: np.ndarray[Any, np.dtype[np.float64]]) -> dict[str, Any]:
    n, mean = len(differences), float(differences.mean())
    error = float(stats.sem(differences))
    half = float(stats.t.ppf(0.975, n - 1)) * error
    same = bool(np.all(differences == 0))
    # Equal differences have no t-test; rounding would make them the surest of all.
    p_t = None if error <= 1e-9 * abs(mean) else float(2 * stats.t.sf(abs(mean) / error, n - 1))
    p_wilcoxon = None if same else float(stats.wilcoxon(differences).pvalue)
    return {"n": n, "mean": mean, "low": mean - half, "high": mean + half, "p_t": p_t, "p_wilcoxon": p_wilcoxon}
