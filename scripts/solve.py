"""From attribute files to a saved plan: `python scripts/solve.py attributes=<files> out=<folder> balance.keep=0.9`.

Settings, all as key=value:
  attributes=<folder, glob, file, or [list]>   what scripts/annotate.py wrote
  out=<folder>                                 where the plan goes
  balance=<name or file>                       conf/balance/<name>.yaml (default m4), then balance.<key>=<value>
  bins=<n>                                     round probabilities to multiples of 1/n (default: exact)
  gap=1e-6                                     relative gap to reach
  memory_limit=3GB threads=2 temp=<folder>     for DuckDB
"""

from __future__ import annotations

import resource
import time
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from balance import Plan, Problem, solve
from balance.common.terminal import Table, terminal
from balance.errors import UserError
from balance.m4.counting import count_parquet
from balance.m4.explain import explain
from balance.m4.planfile import save_plan
from balance.m4.problem import suggest
from conf.app.command import run_command

CONF = Path(__file__).resolve().parent.parent / "conf" / "balance"
SETTINGS = {
    "attributes": None,
    "out": None,
    "bins": None,
    "gap": 1e-6,
    "memory_limit": None,
    "threads": None,
    "temp": None,
}


def read_settings(overrides: list[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Settings of the program, and those of the group `balance`.

    Raises:
        UserError: an override that is not key=value, an unknown key, or a missing one.
    """
    keys = [field.name for field in fields(Problem)]
    known = [*SETTINGS, "balance", *(f"balance.{key}" for key in ("method", "mode", *keys))]
    group = "m4"
    rest = []
    for override in overrides:
        key, equals, value = override.partition("=")
        stem = ".".join(key.split(".")[:2])
        if not equals or stem not in known:
            hint = suggest(stem, known)
            raise UserError(f"{override!r} is no setting{hint}: write key=value with one of {', '.join(known)}")
        if key == "balance":
            group = value
        else:
            rest.append(override)
    try:
        given = OmegaConf.merge(SETTINGS, {"balance": load_group(group)}, OmegaConf.from_dotlist(rest))
    except (OmegaConfBaseException, YAMLError) as error:
        raise UserError(f"the settings cannot be read: {' '.join(str(error).split())}") from error
    values: Any = OmegaConf.to_container(given, resolve=True)
    for key in ("attributes", "out"):
        if values[key] is None:
            raise UserError(f"{key} is missing: write {key}=<path>")
    balance = values.pop("balance")
    balance.pop("name", None)
    return values, balance


def load_group(name: str) -> DictConfig:
    """`conf/balance/<name>.yaml`, or a file given by path."""
    file = Path(name) if name.endswith((".yaml", ".yml")) else CONF / f"{name}.yaml"
    if not file.is_file():
        choices = sorted(path.stem for path in CONF.glob("*.yaml"))
        raise UserError(
            f"balance={name}: there is no {file.name}{suggest(name, choices)}; choices: {', '.join(choices)}"
        )
    loaded = OmegaConf.load(file)
    assert isinstance(loaded, DictConfig)
    return loaded


def describe(plan: Plan) -> Table:
    """The plan's table: the data before and after."""
    summary = plan.summary()
    table = Table("", "before", "after", title=f"Plan {plan.hash}")
    for label, key in (("representation bias RB", "rb"), ("association bias AB", "ab")):
        table.add_row(label, _number(summary[f"{key}_before"]), _number(summary[f"{key}_after"]))
    constrained, total = int(plan.constrained.sum()), len(plan.cells.y_names)
    table.add_row("concepts with an association constrained", "", f"{constrained:,} of {total:,}")
    if summary["worst_concept_before"] is not None:
        table.add_row("worst concept", *(_worst(summary, when) for when in ("before", "after")))
    kept = (("all", "kept_all"), ("known", "kept_known"), ("unknown", "kept_unknown"))
    for label, key in kept:
        table.add_row(f"mean rate, {label}", "1", _number(summary[key]))
    if summary["kept_smallest_concept"] is not None:
        smallest = f"{_number(summary['kept_smallest'])} ({summary['kept_smallest_concept']})"
        table.add_row("mean rate, smallest concept", "1", smallest)
    samples = f"{plan.cells.total:,.0f}"
    table.add_row("effective sample size", samples, f"{plan.effective_sample_size:,.0f}")
    table.add_row("relative gap", "", f"{plan.gap:.1e}")
    return table


def _worst(summary: Mapping[str, float | str | None], when: str) -> str:
    """The worst concept with its attribute and gap; a dash where no known sample of any is left."""
    concept, attribute = summary[f"worst_concept_{when}"], summary[f"worst_attribute_{when}"]
    return "-" if concept is None else f"{concept} / {attribute} {_number(summary[f'worst_gap_{when}'])}"


def _number(value: float | str | None) -> str:
    return f"{value:.4f}" if isinstance(value, float) else "-"


def main(overrides: list[str]) -> None:
    """Count, solve, save, and say so."""
    settings, balance = read_settings(overrides)
    console = terminal()
    method = str(balance.pop("method", "dual"))
    balance.pop("mode", None)  # sampled or weighted, the plan is the same
    if method == "none":
        raise UserError("balance.method is none: choose balance=m4 to make a plan")
    problem = Problem.from_dict(balance)
    began = time.monotonic()
    cells = count_parquet(
        settings["attributes"],
        memory_limit=settings["memory_limit"],
        threads=settings["threads"],
        bins=settings["bins"],
        temp_directory=settings["temp"],
    )
    counted = time.monotonic()
    console.print(f"{cells.total:,.0f} samples in {len(cells):,} cells, counted in {counted - began:.1f} s")
    plan = solve(cells, problem, method, gap=settings["gap"])
    solved = time.monotonic()
    save_plan(plan, settings["out"])
    saved = time.monotonic()
    console.print(describe(plan))
    for sentence in explain(plan):
        console.print(f"- {sentence}")
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    console.print(
        f"solved in {solved - counted:.1f} s, saved to {settings['out']} in {saved - solved:.1f} s; "
        f"{saved - began:.1f} s in all, {memory:.1f} GiB at most"
    )


if __name__ == "__main__":
    run_command(main, __doc__)
