"""One self-contained page for a run, or for several side by side: what balancing did, first of all."""

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from balance.errors import UserError
from balance.files import write_whole
from eval.report import run_charts as charts
from eval.report.page import render_page
from eval.report.run_tables import all_metrics, answer, concept_table, headline_table, unequal_length
from eval.report.rundata import RunData, load_run
from eval.report.sets_table import sets_rows


def write_report(folder: Path, figures: dict[str, str] | None = None, remarks: Sequence[str] = ()) -> Path:
    """Build `report.html` of a run anew from the files of its folder.

    Args:
        folder: the run's folder.
        figures: charts of this evaluation, title -> HTML; kept in the folder for later pages, as are
        remarks: sentences on what the evaluations could not measure.

    Returns:
        The path of the page.
    """
    if figures is not None:
        rows = [{"title": title, "html": html} for title, html in figures.items()]
        write_whole(
            folder / "figures.json", json.dumps({"figures": rows, "remarks": list(remarks)}, ensure_ascii=False)
        )
    run = load_run(folder)
    return write_whole(folder / "report.html", render([run, *_baseline(run)]))


def render(runs: Sequence[RunData], title: str | None = None, paired: Sequence[dict[str, Any]] = ()) -> str:
    """The page of a run (beside its baseline, if there is a second), or of several.

    Args:
        runs: the first is what the page is about.
        title: heading; by default the first run's name.
        paired: rows of paired statistics over seeds, as `eval.treatments` gives them.
    """
    run = runs[0]
    table = headline_table(runs)
    return render_page(
        "report.html",
        title=title or run.name,
        runs=runs,
        run=run,
        answer=answer(runs, table),
        unequal=unequal_length(runs),
        headline=table,
        headline_charts=charts.headline_charts(runs),
        data_charts=charts.data_charts(run.data),
        curves=charts.curves(runs),
        frontiers=charts.frontier_charts(runs),
        concepts=concept_table(runs),
        tests=charts.association_test_chart(runs),
        figures=[{**figure, "run": one.name} for one in runs for figure in one.figures],
        accepted=charts.accepted_chart(run),
        deviation=run.last("accepted/largest_deviation"),
        training=charts.training_charts(runs),
        speed=_speed(runs),
        metrics=all_metrics(runs),
        paired=paired,
        sets=sets_rows(run.sets),
        provenance=_provenance(runs),
        configs=[(one.name, yaml.safe_dump(one.config, sort_keys=False, allow_unicode=True)) for one in runs],
        written=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    )


def _baseline(run: RunData) -> list[RunData]:
    """The run that the configuration names for comparison, if it is there."""
    named = (run.config.get("track") or {}).get("baseline")
    if not named:
        return []
    path = Path(named)
    try:
        return [load_run(path if path.is_dir() else run.folder.parent / named)]
    except UserError:  # it may not have begun; the page is built anew after the next epoch
        return []


def _speed(runs: Sequence[RunData]) -> list[dict[str, Any]]:
    """Median speed and waiting of each run, and how long its evaluations took."""
    rows = []
    for run in runs:
        medians = {
            name: sorted(row["value"] for row in rows_of)[len(rows_of) // 2]
            for name, rows_of in run.series.items()
            if name in ("train/samples_per_second", "train/data_wait", "eval/seconds")
        }
        seen = max((rows_of[-1]["samples"] for rows_of in run.series.values()), default=0)
        rows.append({"name": run.name, "samples": seen, **medians})
    return rows


def _provenance(runs: Sequence[RunData]) -> list[tuple[str, list[str]]]:
    """What each run was made with and from: a row per fact, a cell per run."""
    facts: dict[str, list[str]] = {}
    for column, run in enumerate(runs):
        for key, value in {"seed": run.config.get("seed"), **run.provenance}.items():
            text = " · ".join(map(str, value)) if isinstance(value, list) else str("" if value is None else value)
            facts.setdefault(key, [""] * len(runs))[column] = text
    return list(facts.items())
