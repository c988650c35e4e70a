"""Bias and quality between a run and the weights that it started from: theta = (1 - a) theta_start + a theta_run.

`python scripts/interpolate.py run=runs/mine [alphas='[0,0.25,0.5,0.75,1]'] [checkpoint=last] [start=...] [out=...]`
measures each mixture with the run's own evaluations and writes `interpolation.jsonl`, `.csv` and `.svg` into
`runs/mine/interpolation`. Started again it goes on with the mixtures that are missing. `start=` names other weights to
mix with, in any form that model.init_from takes. `data.allow_pipe=true` lets the run's `pipe:` addresses run shell
commands; what its config.yaml says of that does not count. Likewise `kinds=[package.module:Class]` lets evaluators of
your own be imported.
"""

import csv
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # the project's folder, whichever folder the command runs in
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import conf.app.runtime  # noqa: F401  # isort: skip  # before torch

import matplotlib
import torch
from matplotlib import pyplot as plt

from balance.common.metric import by_name, read_metrics
from balance.common.terminal import Table, terminal
from balance.errors import UserError
from balance.files import whole_file, write_whole
from balance.progress import ProgressLine
from balance.stream.shards import expand_shards
from conf.app.command import run_command, split_options
from eval.report.page import format_interval, format_number
from eval.report.rundata import RunData, load_run
from eval.runner import Suite, build_suite, check_kinds
from eval.sets import HeldOut
from models.factory import ModelBundle, create
from models.start import find_start
from models.training.precision import resolve_device
from models.weights import fit
from scripts.suite_tools import write_json_lines

matplotlib.use("Agg")
DEFAULTS: dict[str, Any] = {
    "run": "",
    "alphas": [0, 0.25, 0.5, 0.75, 1],
    "checkpoint": "last",
    "start": None,
    "out": None,
    "data.allow_pipe": False,
    "kinds": [],
}
AXES = {"bias": "bias (0 is none)", "quality": "quality"}


def mix(start: dict[str, torch.Tensor], end: dict[str, torch.Tensor], alpha: float) -> dict[str, torch.Tensor]:
    """(1 - alpha) start + alpha end, the ends exactly; counters are those of the nearer end."""
    nearer = end if alpha >= 0.5 else start
    mixed = {}
    for name, tensor in nearer.items():
        floats = tensor.is_floating_point() and alpha not in (0, 1)
        mixed[name] = torch.lerp(start[name], end[name], alpha) if floats else tensor
    return mixed


def read_options(arguments: list[str]) -> dict[str, Any]:
    """The options, checked.

    Raises:
        UserError: one is unknown, missing, or can't be.
    """
    options, rest = split_options(arguments, DEFAULTS)
    if rest:
        raise UserError(f"{rest[0].split('=')[0]}= is not an option of interpolate.py; it takes {', '.join(DEFAULTS)}.")
    if not options["run"]:
        raise UserError("Name the run: run=runs/mine")
    alphas = options["alphas"] if isinstance(options["alphas"], list) else [options["alphas"]]
    if not alphas or not all(isinstance(a, int | float) and 0 <= a <= 1 for a in alphas):
        raise UserError(f"alphas={alphas} must be numbers from 0 (the start) to 1 (the run), such as [0,0.5,1].")
    options["alphas"] = sorted({float(a) for a in alphas})
    return options


def load_ends(options: dict[str, Any], config: dict[str, Any]) -> tuple[ModelBundle, dict[str, Any], dict[str, Any]]:
    """(model, weights at the start, weights of the run).

    Raises:
        UserError: the run started from random weights, or they do not fit.
    """
    model = config["model"]
    asked, tag = options["start"] or model.get("init_from"), model.get("pretrained")
    if asked is None and tag:
        asked = tag if Path(tag).exists() else f"{model['name']}:{tag}"
    if asked is None:
        raise UserError(
            f"{options['run']} started from random weights, with which a mixture means nothing; name others by "
            "start=..."
        )
    start = find_start(str(asked), "start" if options["start"] else "model.init_from")
    bundle = create("from", init_from=f"{options['run']}@{options['checkpoint']}", loss=model.get("loss"))
    end = {name: tensor.clone() for name, tensor in bundle.model.state_dict().items()}
    fit(bundle.model, start.weights(), start.said, str(config["name"]))
    begin = {name: tensor.clone() for name, tensor in bundle.model.state_dict().items()}
    return bundle, begin, end


def load_suite(config: dict[str, Any], allow_pipe: bool, kinds: list[str]) -> Suite:
    """The run's own evaluations."""
    data, wanted, held_out = config["data"], config["eval"], None
    check_kinds(wanted["evaluators"], "The run's config.yaml", kinds)
    if data.get("eval") is not None:
        held_out = HeldOut(expand_shards(data["eval"], "data.eval", allow_pipe))
    elif data.get("holdout"):
        held_out = HeldOut(expand_shards(data["train"], "data.train", allow_pipe), data["holdout"])
    return build_suite(
        wanted["sets"],
        wanted["evaluators"],
        wanted["bootstrap"],
        wanted["batch_size"],
        held_out,
        allow_pipe=allow_pipe,
        max_bad=data.get("max_bad", 0.05),
    )


def measure(options: dict[str, Any], config: dict[str, Any], path: Path) -> None:
    """Measure the mixtures that are not in the file yet, and append them."""
    rows = read_metrics(path)
    done = {row["alpha"] for row in rows}
    missing = [alpha for alpha in options["alphas"] if alpha not in done]
    if not missing:
        return
    suite = load_suite(config, options["data.allow_pipe"] is True, list(options["kinds"] or []))
    bundle, begin, end = load_ends(options, config)
    device = resolve_device(str(config.get("device", "auto")))
    bundle.model.to(device)
    with ProgressLine("interpolate", len(missing), "mixtures") as line:
        for alpha in missing:
            bundle.model.load_state_dict(mix(begin, end, alpha))
            metrics = suite.run(bundle, device, name=f"the mixture {alpha:g}")
            rows += [metric.row(alpha=alpha) for metric in metrics]
            write_json_lines(path, rows)  # whole mixtures at a time
            line.update(1)


def draw(run: RunData, rows: list[dict[str, Any]], path: Path) -> None:
    """Bias and quality against the mixing weight, with 95 % intervals."""
    series = by_name(sorted(rows, key=lambda row: row["alpha"]))
    figure, axes = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
    for axis, (direction, label) in zip(axes, AXES.items(), strict=True):
        for name in shown(run, series):
            if run.direction(name) != direction:
                continue
            points = series[name]
            x, y = [row["alpha"] for row in points], [row["value"] for row in points]
            ends = [[row[end] if row[end] is not None else row["value"] for row in points] for end in ("low", "high")]
            (drawn,) = axis.plot(x, y, "o-", ms=4, label=labels(run).get(name, name))
            axis.fill_between(x, ends[0], ends[1], color=drawn.get_color(), alpha=0.15, lw=0)
        axis.axhline(0, color="0.6", lw=0.8)
        axis.set_xlabel("mixing weight: 0 is the start, 1 the run")
        axis.set_ylabel(label)
        axis.grid(alpha=0.3)
        if axis.get_legend_handles_labels()[0]:
            axis.legend(frameon=False, fontsize=8)
    with whole_file(path) as part:
        figure.savefig(part, format="svg")
    plt.close(figure)


def labels(run: RunData) -> dict[str, str]:
    """Metric -> the name that the run's summary gives it."""
    return {name: label for label, name in (run.config["eval"].get("headline") or {}).items()}


def shown(run: RunData, series: dict[str, Any]) -> list[str]:
    """The metrics of the run's summary, or all if it has none."""
    return [name for name in labels(run) if name in series] or [name for name in series if name != "eval/seconds"]


def show(run: RunData, rows: list[dict[str, Any]], alphas: Sequence[float]) -> Table:
    """The table of the summary's metrics, a column for each mixture."""
    table = Table(title=f"{run.name} mixed with its start", title_justify="left")
    table.add_column("measure")
    for alpha in alphas:
        table.add_column(f"{alpha:g}", justify="right")
    series = by_name(rows)
    for name in shown(run, series):
        at = {row["alpha"]: row for row in series[name]}
        cells = [f"{format_number(at[a]['value'])}\n{format_interval(at[a])}" if a in at else "–" for a in alphas]
        table.add_row(labels(run).get(name, name), *cells)
    return table


def run(arguments: list[str]) -> Path:
    """Measure, write, draw; the folder."""
    options = read_options(arguments)
    found = load_run(Path(options["run"]), ("data", "model", "eval"))
    out = Path(options["out"] or found.folder / "interpolation")
    path = out / "interpolation.jsonl"
    facts = json.dumps({key: str(options[key]) for key in ("checkpoint", "start")}, sort_keys=True)
    about = out / "about.json"
    if about.is_file() and about.read_text(encoding="utf-8") != facts:
        raise UserError(f"{out} holds mixtures of other weights; name another folder by out=...")
    write_whole(about, facts)
    measure(options, found.config, path)
    rows = [row for row in read_metrics(path) if row["alpha"] in options["alphas"]]
    with whole_file(out / "interpolation.csv") as part, part.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ("alpha", "name", "value", "low", "high", "count"), extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    draw(found, rows, out / "interpolation.svg")
    terminal().print(show(found, rows, options["alphas"]))
    return out


def main(arguments: list[str]) -> None:
    out = run(arguments)
    print(f"Written: {out}/interpolation.jsonl, .csv, .svg")


if __name__ == "__main__":
    run_command(main, __doc__)
