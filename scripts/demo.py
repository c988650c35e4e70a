"""The demonstration: the same tiny model trained on the demo data as it is and balanced, side by side.

python scripts/demo.py [--seed 0] [--runs runs] [--data demo-data] [-- override ...]
"""

import argparse
import os
import shutil
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import yaml

from balance.common.metric import by_name, read_metrics
from balance.common.terminal import Table, terminal
from balance.errors import UserError
from balance.files import write_whole
from balance.progress import format_seconds
from conf.app.command import Terminated, run_command
from eval.report.run_page import render
from eval.report.rundata import load_run

ROOT = Path(__file__).resolve().parent.parent
TREATMENTS = {"unbalanced": "none", "balanced": "m4"}


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--runs", default="runs", help="folder of the runs")
    parser.add_argument("--data", default="demo-data", help="folder of the demo shards, made if it is not there")
    parser.add_argument("overrides", nargs="*", help="further overrides for both runs, such as schedule.epochs=2")
    options = parser.parse_args(arguments)
    if not (Path(options.data) / "world.json").is_file():
        print(f"Making the demo shards in {options.data}", flush=True)
        if subprocess.call([sys.executable, str(ROOT / "scripts/make_demo_shards.py"), "--out", options.data]):
            return 1
    runs = {name: f"demo-{name}" + (f"-s{options.seed}" if options.seed else "") for name in TREATMENTS}
    shared = [
        f"runs={options.runs}",
        "data=demo",
        f"data.root={options.data}",
        f"seed={options.seed}",
        "overwrite=true",
    ]
    commands = {
        name: replaced([f"name={runs[name]}", f"balance={balance}", *shared], options.overrides)
        for name, balance in TREATMENTS.items()
    }
    print("Training both models side by side: " + ", ".join(runs.values()), flush=True)
    seconds = train_side_by_side(commands, Path(options.runs))
    if seconds is None:
        return 1
    results = {name: read_run(Path(options.runs) / run, seconds[name]) for name, run in runs.items()}
    table = compare(results)
    terminal().print(table)
    for name, result in results.items():
        print(f"{name} report: {result['folder'] / 'report.html'}")
    both = [load_run(results[name]["folder"]) for name in reversed(TREATMENTS)]
    page = write_whole(Path(options.runs) / "demo.html", render(both, "What balancing did to the demo"))
    print(f"Both side by side: {page}")
    return 0


def replaced(overrides: list[str], by: list[str]) -> list[str]:
    """Overrides with those of the user's, which win where both set a key."""
    keys = {override.partition("=")[0] for override in by}
    return [override for override in overrides if override.partition("=")[0] not in keys] + by


def train_side_by_side(commands: dict[str, list[str]], folder: Path) -> dict[str, float] | None:
    """Run `train.py` with each list of overrides at once, the cores shared out, and show how far all are.

    Returns:
        Seconds that each took, or None if one failed; its last words are then printed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    threads = str(max(1, (os.cpu_count() or 1) // len(commands)))
    environment = {**os.environ, "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", threads)}
    logs = {name: folder / f"demo-{name}.log" for name in commands}
    started, seconds = time.monotonic(), dict.fromkeys(commands, 0.0)
    with ExitStack() as stack:
        processes = {}
        for name, overrides in commands.items():
            log = stack.enter_context(open(logs[name], "w", encoding="utf-8"))
            command = [sys.executable, str(ROOT / "train.py"), *overrides]
            processes[name] = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment)
        shown = 0.0
        try:
            while any(process.poll() is None for process in processes.values()):
                time.sleep(0.5)
                for name, process in processes.items():
                    if process.poll() is None:
                        seconds[name] = time.monotonic() - started
                if time.monotonic() - shown > (2 if sys.stdout.isatty() else 20):
                    shown = time.monotonic()
                    say_progress({name: last_line(log) for name, log in logs.items()})
        except KeyboardInterrupt as stop:
            for process in processes.values():
                if isinstance(stop, Terminated):  # Ctrl-C they have heard themselves; they write their checkpoints
                    process.terminate()
            for process in processes.values():
                process.wait()
            stop.args = ("Stopped; a run that has begun can go on with resume=true.",)
            raise
    for name, process in processes.items():
        if process.returncode:
            print(f"The {name} run failed; the end of {logs[name]}:\n{logs[name].read_text()[-2000:]}", file=sys.stderr)
            return None
    print("\n" + logs["balanced"].read_text(encoding="utf-8").split("train:")[0].strip())
    return seconds


def last_line(log: Path) -> str:
    """The newest line of a log, or a word before there is one."""
    lines = log.read_text(encoding="utf-8").strip().splitlines()
    return lines[-1] if lines and lines[-1].startswith(("train:", "Done")) else "preparing"


def say_progress(lines: dict[str, str]) -> None:
    """One line on both runs: in place in a terminal, one below the other elsewhere."""
    text = "   ".join(f"{name}: {line.removeprefix('train: ').split(', data wait')[0]}" for name, line in lines.items())
    if sys.stdout.isatty():
        print(f"\r\x1b[K{text[: shutil.get_terminal_size().columns - 1]}", end="", flush=True)
    else:
        print(text, flush=True)


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
    table.add_row("samples seen", *(f"{run['last']['eval/seconds']['samples']:,}" for run in runs))
    table.add_row("time", *(format_seconds(run["seconds"]) for run in runs))
    return table


def show(row: dict[str, Any] | None) -> str:
    """A value with its interval."""
    if row is None:
        return "-"
    text = f"{row['value']:.3f}"
    return text if row.get("low") is None else f"{text} [{row['low']:.3f}, {row['high']:.3f}]"


if __name__ == "__main__":
    run_command(main)
