"""What explains the bias of many models, from what scripts/zoo.py has measured.

    python scripts/zoo_analysis.py zoo=<folder> extra=[balance] contrast=dataset_size

Settings, as key=value:
  zoo=<folder>        holds zoo.parquet or zoo.csv; or a table of one's own, a Parquet or CSV file
  columns={...}       what its columns are called, where they bear other names: {value: effect_size, name: test}
  out=<folder>        analysis.html, analysis.json and a CSV file for each table; by default the zoo's folder
  tests=[name, ...]   the association tests of the mixed model and the correlations: names of tests, or of a set of
                      them such as valence26, the published grouping; by default all of the zoo
  extra=[fact, ...]   further facts in the mixed model, such as balance
  quality=<metric>    or a fact, such as VTAB+ given in the zoo's list; by default the first zero-shot top-1
  contrast=<fact>     compare models that differ in it alone: its smallest with its largest value, or
  between=[a, b]      these two of its values
  same=[fact, ...]    what the models of a pair share; by default data set, its size, architecture, parameters, loss,
                      balance, seed and samples seen, without the contrast itself
"""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # the project's folder, whichever folder the command runs in
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import pandas as pd

from balance.common.terminal import say
from balance.errors import UserError
from balance.files import write_whole
from conf.app.command import run_command, split_options
from eval.zoo.page import Analysis, render_analysis
from eval.zoo.regression import (
    choose_tests,
    correlations,
    effects,
    impressions_model,
    matched_contrasts,
    mixed_model,
)

OPTIONS: dict[str, Any] = {
    "zoo": "",
    "columns": {},
    "out": "",
    "tests": None,
    "extra": [],
    "quality": "",
    "contrast": "",
    "between": None,
    "same": None,
}
NEEDED = ("model", "kind", "name", "value")
ALIKE = (
    "dataset",
    "dataset_size",
    "architecture_family",
    "parameters",
    "loss",
    "balance",
    "seed",
    "samples_seen",
)


def main(arguments: list[str]) -> int:
    """Analyse a zoo; the exit status."""
    options, rest = split_options(arguments, OPTIONS)
    if rest:
        raise UserError(f"{rest[0]!r} is no setting; write key=value with one of {', '.join(OPTIONS)}.")
    path = find_table(Path(options["zoo"]))
    table = read_table(path, options["columns"] or {})
    check_options(table, options)
    found = analyse(table, options)
    out = Path(options["out"] or path.parent)
    write_whole(out / "analysis.html", render_analysis(found))
    tables = {"mixed_model": found.mixed.table if found.mixed else None, "impressions": found.impressions}
    tables |= {"correlations": found.correlations, "contrast": found.contrast}
    for name, one in tables.items():
        if one is not None:
            write_whole(out / f"{name}.csv", one.to_csv(index=False))
            say(f"\n{name}\n{one.head(20).to_string(index=False, float_format='%.4g')}")
    write_whole(out / "analysis.json", json.dumps({"models": found.models, "notes": found.notes}, indent=1))
    for sentence in found.notes:
        say(f"note: {sentence}")
    print(out / "analysis.html")
    return 0


def find_table(zoo: Path) -> Path:
    """The table of a zoo: the file itself, or the one in its folder.

    Raises:
        UserError: there is none.
    """
    if zoo.is_file():
        return zoo
    there = [path for path in (zoo / "zoo.parquet", zoo / "zoo.csv") if path.is_file()]
    if not there:
        raise UserError(f"zoo={zoo}: there is no zoo.parquet or zoo.csv; make them with scripts/zoo.py.")
    return there[0]


def read_table(path: Path, columns: Mapping[str, str]) -> pd.DataFrame:
    """Read a zoo's table, with its columns called as the analyses call them.

    Args:
        path: a Parquet or CSV file.
        columns: name here -> name in the file.

    Raises:
        UserError: the file can't be read, or a column that is needed or named is not there.
    """
    if not isinstance(columns, Mapping):
        raise UserError(f"columns={columns} must be names of columns, such as {{value: effect_size}}.")
    try:
        table = pd.read_csv(path) if path.suffix.lower() == ".csv" else pd.read_parquet(path)
    except (ValueError, OSError, pd.errors.ParserError) as error:
        raise UserError(f"zoo={path} can't be read: {' '.join(str(error).split())[:200]}") from error
    has = ", ".join(map(str, table.columns))
    for wanted, given in columns.items():
        if given not in table.columns:
            raise UserError(f"columns.{wanted}={given}: {path} has no such column; it has {has}.")
    table = table.drop(columns=[name for name in columns if name in table.columns and columns[name] != name])
    table = table.rename(columns={given: wanted for wanted, given in columns.items()})
    if "evaluator" not in table.columns and "name" in table.columns:
        table["evaluator"] = table["name"].astype(str).str.partition("/")[0]
    for wanted in NEEDED:
        if wanted not in table.columns:
            raise UserError(
                f"{path} has no column {wanted}; it has {has}. If it is called otherwise, say "
                f"columns={{{wanted}: <name>}}."
            )
    return table


def check_options(table: pd.DataFrame, options: dict[str, Any]) -> None:
    """Check, before anything is fitted, that the zoo has what the options name.

    Raises:
        UserError: it does not.
    """
    for key in ("extra", "same"):
        for fact in options[key] or []:
            if fact not in table.columns:
                raise UserError(f"{key}={fact} is no fact of this zoo; it has {', '.join(map(str, table.columns))}.")
    quality_of(table, options["quality"])
    if options["contrast"]:
        sides_of(table, options["contrast"], options["between"])


def analyse(table: pd.DataFrame, options: dict[str, Any]) -> Analysis:
    """All analyses that the zoo allows; what it does not is noted."""
    found = Analysis(table)
    tests = effects(table)
    if options["tests"]:
        wanted = options["tests"] if isinstance(options["tests"], list) else [options["tests"]]
        chosen = choose_tests(tests, [str(name) for name in wanted])
        counts = [one[["evaluator", "test"]].drop_duplicates().shape[0] for one in (chosen, tests)]
        found.notes.append(f"The association tests are {counts[0]} of {counts[1]}: {', '.join(map(str, wanted))}.")
        tests = chosen
    try:
        found.mixed = mixed_model(tests, options["extra"] or [])
        found.notes += found.mixed.notes
    except UserError as error:
        found.notes.append(f"No mixed model: {error}")
    try:
        found.impressions = impressions_model(table)
    except UserError as error:
        found.notes.append(f"No regression of impressions: {error}")
    found.quality, quality = quality_of(table, options["quality"])
    if quality is not None:
        measures = table[~table["kind"].isin(["zeroshot", "retrieval"]) & ~table["name"].str.contains(r"/p\[")]
        whole = ~measures["name"].str.contains(r"\[") | measures["name"].isin(tests["name"])
        found.correlations = correlations(measures[whole], quality)
    if options["contrast"]:
        found.contrast_of, found.contrast = contrast_of(table, options["contrast"], options["between"], options["same"])
    return found


def quality_of(table: pd.DataFrame, wanted: str) -> tuple[str, pd.Series | None]:
    """The name of the quality, and its values by model."""
    if wanted and wanted in table.columns:
        return wanted, table.drop_duplicates("model").set_index("model")[wanted].astype(float)
    names = list(dict.fromkeys(table["name"]))
    name = wanted or next((name for name in names if name.endswith("/top1")), "")
    if wanted and wanted not in names:
        raise UserError(f"quality={wanted} is neither a metric nor a fact of this zoo.")
    if not name:
        return "", None
    return name, table[table["name"] == name].set_index("model")["value"]


def contrast_of(
    table: pd.DataFrame, fact: str, between: list[Any] | None, same: list[str] | None
) -> tuple[str, pd.DataFrame]:
    """What is contrasted, in words, and the table."""
    low, high = sides_of(table, fact, between)
    table = table[~table["name"].str.contains(r"/p\[|_p\b|_chance$", regex=True)]
    shared = [name for name in (same or ALIKE) if name in table.columns and name != fact]
    return f"{fact}: {high} – {low}", matched_contrasts(table, fact, low, high, shared)


def sides_of(table: pd.DataFrame, fact: str, between: list[Any] | None) -> tuple[Any, Any]:
    """The two values of a fact that are contrasted, the lower or untreated first.

    Raises:
        UserError: the zoo's models don't differ in the fact, or it has no such values.
    """
    if fact not in table.columns or table[fact].dropna().nunique() < 2:
        raise UserError(f"contrast={fact} is no fact in which the models of this zoo differ.")
    values = sorted(table[fact].dropna().unique())
    if between is not None and (len(between) != 2 or not set(between) <= set(values)):
        raise UserError(f"between={between} must be two values of {fact}, which has {', '.join(map(str, values))}.")
    low, high = between or (values[0], values[-1])
    if not between and "none" in (low, high):  # the untreated side first
        low, high = "none", next(value for value in (low, high) if value != "none")
    return low, high


if __name__ == "__main__":
    run_command(main, __doc__)
