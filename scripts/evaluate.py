"""Put a model through a suite of evaluations.

    python scripts/evaluate.py model.name=ViT-B-32 model.pretrained=laion2b_s34b_b79k suite=full out=<folder>
    python scripts/evaluate.py model.init_from=runs/mine suite=full       # a run, a file, an open_clip folder or tag

Own settings, as key=value:
  suite=full        a name of conf/eval/, or a YAML file of that form: sets, and a list of evaluators
  out=<folder>      metrics.jsonl, suite.json, suite.html; by default runs/evaluations/<model>-<suite>
  cache=<folder>    features of stimuli, from which a stopped run goes on; by default <out>/features; null for none

All others are keys of a training run's configuration: model.*, eval.* (such as eval.root=<folder of sets>), device, and
seed, which draws the weights of a model that starts from none (model=tiny, the untrained comparison).
Several processes share the work under `accelerate launch scripts/evaluate.py ...`.
"""

import json
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # the project's folder, whichever folder the command runs in
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import conf.app.runtime  # noqa: F401  # isort: skip  # before torch

import torch
from accelerate import PartialState
from accelerate.utils import set_seed

from balance.common.terminal import Table, say, terminal
from balance.common.writer import only_writer
from balance.errors import UserError
from balance.files import write_whole
from conf.app.build import create_model
from conf.app.command import run_command, split_options
from conf.app.schema import Config
from eval.report.page import format_interval, format_number
from eval.report.suite_page import render_suite
from models.factory import check_model_name
from models.training.distributed import Processes
from models.training.precision import resolve_device
from models.training.watchdog import watching
from scripts.suite_tools import (
    NO_BETTER,
    Measured,
    compose_suite,
    folder_name,
    load_suite,
    measure,
    model_name,
    write_json_lines,
)

MOST_ROWS = 12  # of one evaluator in the terminal's table; the page has all
OPTIONS = {"suite": "full", "out": "", "cache": ""}


def main(arguments: list[str]) -> int:
    """Evaluate a model; the exit status."""
    options, overrides = split_options(arguments, OPTIONS)
    config = compose_suite(overrides, options["suite"])
    device = resolve_device(config.device)
    check_model_name(config.model.name, config.model.config, config.model.pretrained, config.model.init_from)
    state = PartialState(cpu=device.type == "cpu")
    processes = Processes()
    name = model_name(config.model)
    out = Path(options["out"] or Path("runs", "evaluations", f"{folder_name(name)}-{config.eval.name}"))
    cache = None if options["cache"] == "null" else Path(options["cache"] or out / "features")

    with ExitStack() as held:
        held.enter_context(watching(processes, 60 * config.distributed.timeout))
        processes.by_first(lambda: held.enter_context(results_folder(out)))
        return evaluate(config, name, out, cache, processes, state.device)


def evaluate(
    config: Config, name: str, out: Path, cache: Path | None, processes: Processes, device: torch.device
) -> int:
    """Measure a model and write the results; the exit status."""
    suite = load_suite(config, keep_bytes=0)
    if processes.first:
        pictures = sum(map(len, suite.sets.values()))
        say(f"{name}: {len(suite.evaluators)} evaluators, {len(suite.sets)} sets with {pictures:,} pictures")
        for sentence in suite.skipped:
            say(f"note: {sentence}")
    set_seed(config.seed)  # of random weights, where no others are named
    bundle = create_model(config.model, device)
    processes.share_weights(bundle.model)
    try:
        found = measure(suite, config, bundle, name, device, cache, processes)
    except KeyboardInterrupt as stop:
        stop.args = ("Stopped; the same command goes on from what is embedded.",)
        raise
    if processes.first:
        write_results(out, found)
        print_table(found)
        if NO_BETTER in found.facts["skipped"]:
            say(f"note: {NO_BETTER}")
        print(f"{out / 'metrics.jsonl'}\n{out / 'suite.html'}")
    return 0


@contextmanager
def results_folder(out: Path) -> Iterator[None]:
    """A folder for results, as its only writer.

    Raises:
        UserError: another process writes there, or a training run, whose metrics would be lost, has its place there.
    """
    with only_writer(out):
        if (out / "config.yaml").is_file() and (out / "metrics.jsonl").is_file():
            raise UserError(f"out={out} is a training run, whose metrics would be replaced; name another folder.")
        yield


def write_results(out: Path, found: Measured) -> None:
    """Write rows, facts and page into a folder."""
    write_json_lines(out / "metrics.jsonl", found.rows)
    write_whole(out / "suite.json", json.dumps(found.facts, indent=1, ensure_ascii=False))
    write_whole(out / "suite.html", render_suite(found.facts, found.rows, found.pages))


def print_table(found: Measured) -> None:
    """Show the results in the terminal."""
    table = Table(title=found.facts["model"])
    for heading in ("evaluator", "metric"):
        table.add_column(heading, overflow="fold")
    for heading in ("value", "95 % interval", "n"):
        table.add_column(heading, justify="right", no_wrap=True)
    for evaluator in found.facts["kinds"]:
        rows = [row for row in found.rows if row["evaluator"] == evaluator]
        for row in rows[:MOST_ROWS]:
            _add(table, row)
        if len(rows) > MOST_ROWS:
            table.add_row("", f"... and {len(rows) - MOST_ROWS} more", "", "", "")
        table.add_section()
    terminal().print(table)


def _add(table: Table, row: dict[str, Any]) -> None:
    evaluator, _, metric = row["name"].partition("/")
    count = f"{row['count']:,}" if row.get("count") is not None else ""
    table.add_row(evaluator, metric, format_number(row["value"]), format_interval(row), count)


if __name__ == "__main__":
    run_command(main, __doc__)
