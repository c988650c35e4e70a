"""The demonstration: the same tiny model trained on the demo data as it is and balanced, side by side.

python scripts/demo.py [--seed 0] [--runs runs] [--data demo-data] [-- override ...]
"""

import argparse
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.table import Table

from balance.errors import UserError
from balance.progress import format_seconds
from eval.report import by_name
from eval.track import read_metrics

ROOT = Path(__file__).resolve().parent.parent
TREATMENTS = {"unbalanced": "none", "balanced": "m4"}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--runs", default="runs", help="folder of the runs")
    parser.add_argument("--data", default="demo-data", help="folder of the demo shards, made if it is not there")
    parser.add_argument("overrides", nargs="*", help="further overrides for both runs, such as schedule.epochs=2")
    options = parser.parse_args()
    if not (Path(options.data) / "world.json").is_file():
        print(f"Making the demo shards in {options.data}", flush=True)
        if subprocess.call([sys.executable, str(ROOT / "scripts/make_demo_shards.py"), "--out", options.data]):
            return 1
    results = {}
    for name, balance in TREATMENTS.items():
        run = f"demo-{name}" if options.seed == 0 else f"demo-{name}-s{options.seed}"
        print(f"\nTraining {run}", flush=True)
        started = time.monotonic()
        command = [sys.executable, str(ROOT / "train.py"), f"name={run}", f"runs={options.runs}", "data=demo"]
        command += [f"data.root={options.data}", f"balance={balance}", f"seed={options.seed}", "overwrite=true"]
        status = subprocess.call([*command, *options.overrides])
        if status:
            return status
        results[name] = read_run(Path(options.runs) / run, time.monotonic() - started)
    table = compare(results)
    Console().print(table)
    for name, result in results.items():
        print(f"{name} report: {result['folder'] / 'report.html'}")
    return 0


def read_run(folder: Path, seconds: float) -> dict[str, Any]:
    """The last values of a run's metrics, its configuration, and how long it took."""
    series = by_name(read_metrics(folder / "metrics.jsonl"))
    if not series:
        raise UserError(f"{folder / 'metrics.jsonl'} holds no metrics.")
    config = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
    return {
        "folder": folder,
        "seconds": seconds,
        "last": {name: rows[-1] for name, rows in series.items()},
        "headline": config["eval"]["headline"],
    }


def compare(results: dict[str, dict[str, Any]]) -> Table:
    """One table, a column for each run."""
    table = Table(title="What balancing did", title_justify="left")
    table.add_column("measure")
    for name in results:
        table.add_column(name, justify="right")
    runs = list(results.values())
    rows = {
        "data RB": "data/rb",
        "data AB": "data/ab",
        "worst gap in a concept": "data/worst_gap",
        "kept share": "data/kept",
    }
    for label, metric in {**rows, **runs[0]["headline"]}.items():
        table.add_row(label, *(show(run["last"].get(metric)) for run in runs))
    table.add_row("samples seen", *(f"{run['last']['train/loss']['samples']:,}" for run in runs))
    table.add_row("time", *(format_seconds(run["seconds"]) for run in runs))
    return table


def show(row: dict[str, Any] | None) -> str:
    """A value with its interval."""
    if row is None:
        return "-"
    text = f"{row['value']:.3f}"
    return text if row.get("low") is None else f"{text} [{row['low']:.3f}, {row['high']:.3f}]"


if __name__ == "__main__":
    try:
        sys.exit(main())
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
