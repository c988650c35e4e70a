"""Put a list of models through a suite: one row for each model and test.

    python scripts/zoo.py zoo=small out=<folder>

Settings, as key=value:
  zoo=<name or file>   eval/zoo/models/<name>.yaml, or a YAML file: suite, and models by tag, file, folder or run
  out=<folder>         models/<model>/ (rows, facts, page), zoo.parquet, zoo.csv, zoo.jsonl
  suite=<name or file> instead of the zoo's own
  keep_features=false  keep the features of models that are complete, for another suite over the same stimuli
All others are keys of a training run's configuration: eval.* (such as eval.root=<folder of sets>), device.

A model that is complete is not measured again, unless the suite or the source of the model has changed. A model that
can't be loaded is reported and left out. `scripts/zoo_analysis.py zoo=<out>` makes the regressions and plots.
"""

import hashlib
import json
import shutil
import sys
import time
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # the project's folder, whichever folder the command runs in
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import conf.app.runtime  # noqa: F401  # isort: skip  # before torch

import pandas as pd
import torch
from omegaconf import OmegaConf

from balance.common.documents import read_mapping, read_rows
from balance.common.terminal import say, visible
from balance.errors import UserError
from balance.files import whole_file, write_whole
from balance.progress import format_seconds
from conf.app.command import run_command, split_options
from conf.app.schema import Config
from eval.pixels import KEEP_BYTES
from eval.report.suite_page import render_suite
from eval.runner import Suite
from models.factory import create
from models.start import find_start
from models.training.precision import resolve_device
from scripts.suite_tools import check_suite, compose_suite, folder_name, load_suite, measure, write_json_lines
from scripts.zoo_models import ZooModel, read_zoo

OPTIONS = {"zoo": "", "out": "", "suite": "", "keep_features": False}
NOT_FACTS = ("kinds", "headline", "seconds", "sets", "left_out", "skipped", "truncated", "fingerprint")


def main(arguments: list[str]) -> int:
    """Measure a zoo; the exit status: 1 if a model could not be measured."""
    options, overrides = split_options(arguments, OPTIONS)
    if not options["zoo"]:
        raise UserError("zoo=<name or file> must be given: the list of models.")
    content, models = read_zoo(options["zoo"])
    out = Path(options["out"] or Path("runs", "zoos", Path(options["zoo"]).stem))
    check_suite(content.get("eval") or {}, "of the zoo", ())
    changes = [f"eval.{key}={json.dumps(value)}" for key, value in (content.get("eval") or {}).items()]
    config = compose_suite([*changes, *overrides], options["suite"] or content.get("suite") or "full")
    device = resolve_device(config.device)
    wanted = [model for model in models if not is_complete(out, model, config)]
    print(f"{len(models)} models, {len(models) - len(wanted)} of them complete; suite {config.eval.name}")
    failed = []
    if wanted:
        suite = load_suite(config, KEEP_BYTES)
        for sentence in suite.skipped:
            say(f"note: {sentence}")
        try:
            failed = measure_all(wanted, suite, config, out, device, bool(options["keep_features"]))
        except KeyboardInterrupt as stop:
            stop.args = ("Stopped; the same command goes on where it was.",)
            raise
    table = collect(out, [model for model in models if is_complete(out, model, config)])
    write_table(table, out)
    print(f"{len(table):,} rows of {table['model'].nunique() if len(table) else 0} models in {out / 'zoo.parquet'}")
    return 1 if failed else 0


def measure_all(
    models: list[ZooModel], suite: Suite, config: Config, out: Path, device: torch.device, keep_features: bool
) -> list[str]:
    """Measure models one after the other; the names of those that failed."""
    failed: list[str] = []
    start = time.monotonic()
    for number, model in enumerate(models):
        left = (time.monotonic() - start) / number * (len(models) - number) if number else None
        say(f"[{number + 1}/{len(models)}] {model.name}{f', ETA {format_seconds(left)}' if left else ''}")
        try:
            measure_one(model, suite, config, out, device, keep_features)
        except (UserError, RuntimeError) as error:  # too large for the memory, mostly; the others still run
            failed.append(model.name)
            reason = " ".join(str(error).split())[:400]
            print(visible(f"note: {model.name} is left out: {reason}"), file=sys.stderr)
    return failed


def measure_one(
    model: ZooModel, suite: Suite, config: Config, out: Path, device: torch.device, keep_features: bool
) -> None:
    """Measure a model and write its folder, the facts last: with them it is complete."""
    folder = out / "models" / folder_name(model.name)
    bundle = create("from", init_from=model.source, device=device)
    found = measure(suite, config, bundle, model.name, device, folder / "features")
    found.facts["fingerprint"] = fingerprint(model, config)
    (folder / "suite.json").unlink(missing_ok=True)
    write_json_lines(folder / "metrics.jsonl", found.rows)
    write_whole(folder / "suite.html", render_suite(found.facts, found.rows, found.pages))
    write_whole(folder / "suite.json", json.dumps(found.facts, indent=1, ensure_ascii=False))
    if not keep_features:
        shutil.rmtree(folder / "features", ignore_errors=True)


def is_complete(out: Path, model: ZooModel, config: Config) -> bool:
    """Whether a model has been measured with this suite and these weights."""
    path = out / "models" / folder_name(model.name) / "suite.json"
    if not path.is_file():
        return False
    try:
        facts = read_mapping(path, "a model's results", "it is measured again")
    except UserError:
        return False
    return bool(facts.get("fingerprint") == fingerprint(model, config))


def fingerprint(model: ZooModel, config: Config) -> str:
    """A hash of the suite's settings and of where the model is from."""
    path = find_start(model.source).path
    stamp = [str(path), path.stat().st_size, path.stat().st_mtime_ns] if path is not None else model.source
    settings = OmegaConf.to_container(OmegaConf.structured(config.eval))
    text = json.dumps([settings, stamp], sort_keys=True, default=str)
    return hashlib.blake2b(text.encode(), digest_size=12).hexdigest()


def collect(out: Path, models: list[ZooModel]) -> pd.DataFrame:
    """One row for each model and metric, with all that is known of the model."""
    rows: list[dict[str, Any]] = []
    for model in models:
        folder = out / "models" / folder_name(model.name)
        facts = read_mapping(folder / "suite.json", "a model's results", "remove it, then start again")
        known = {key: value for key, value in facts.items() if key not in NOT_FACTS} | model.facts
        known |= {"model": model.name, "source": model.source}
        for row in read_rows(folder / "metrics.jsonl"):
            if row["evaluator"] != "eval":
                rows.append({**known, **row, "model": model.name})
    return pd.DataFrame(rows)


def write_table(table: pd.DataFrame, out: Path) -> None:
    """Write the table as Parquet, CSV and JSON lines."""
    write_whole(out / "zoo.csv", table.to_csv(index=False))
    write_whole(out / "zoo.jsonl", table.to_json(orient="records", lines=True, force_ascii=False) if len(table) else "")
    with whole_file(out / "zoo.parquet") as part:
        table.to_parquet(part, index=False)


if __name__ == "__main__":
    run_command(main, __doc__)
