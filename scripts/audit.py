"""Show the bias of data: attribute files, or shards that are labelled first; before and after a plan; or two data sets.

    python scripts/audit.py attributes-folder out=audit                     attribute files (a folder, a glob, a file)
    python scripts/audit.py attributes-folder plan=runs/x/plan out=audit    the same, before and after a plan
    python scripts/audit.py data.train=shards/ attributes=captions out=audit    shards, labelled first
    python scripts/audit.py january/ june/ out=audit                        two data sets, or one over time

Prints a table, and writes audit.html (one page, nothing outside it), associations.csv, attributes.csv,
intersections.csv; for two data sets changes.csv.

Settings, all as key=value: out, plan, target ({woman: 0.5}), bootstrap (resamples), level (of intervals), top (rows
printed and drawn), seed, memory_limit and threads (of DuckDB), workers (that label), title, label_check (what
scripts/label_check.py found).
"""

import sys
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # the project's folder, whichever folder the command runs in
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
from rich.console import Console

from balance.audit import ENOUGH, DataBias, data_bias
from balance.changes import Change, compare
from balance.common.terminal import Table, say, terminal
from balance.errors import UserError
from balance.intersections import intersections
from balance.labels.annotate import annotate_shards
from balance.labels.attributes import build_annotator, made_by
from balance.labels.check_file import LabelCheck, read_check
from balance.labels.summary import faults_of
from balance.m4.cells import Cells
from balance.m4.counting import attribute_files, count_parquet
from balance.m4.planfile import load_plan
from balance.stream.shards import expand_shards
from conf.app.cli import compose
from conf.app.command import check_given_once, run_command, split_options
from scripts.audit_files import write_changes, write_tables
from scripts.audit_page import write_comparison, write_page

WIDTH = 132  # a table that wraps is harder to read than one that a terminal wraps

OPTIONS: dict[str, Any] = {
    "out": None,
    "plan": None,
    "target": None,
    "bootstrap": 200,
    "level": 0.95,
    "top": 25,
    "seed": 0,
    "memory_limit": None,
    "threads": None,
    "workers": 0,
    "title": None,
    "label_check": None,
}


def main(arguments: list[str]) -> None:
    folders = [
        one for one in arguments if "=" not in one or (one.partition("=")[0] not in OPTIONS and Path(one).exists())
    ]
    settings = [one for one in arguments if one not in folders]
    check_given_once(settings)
    options, overrides = split_options(settings, OPTIONS)
    if options["out"] is None:
        raise UserError("out must be given: the folder for the page and the tables, as in out=audit.")
    if len(folders) > 2 or (folders and overrides):
        raise UserError(
            "Give one set of attribute files, two of them to compare, or data.train=... attributes=... for shards; "
            f"got {' '.join([*folders, *overrides])}."
        )
    out = Path(str(options["out"]))
    out.mkdir(parents=True, exist_ok=True)
    if len(folders) == 2:
        _compare(folders, options, out)
        return
    files, title = (attribute_files(folders[0]), folders[0]) if folders else _label(overrides, options, out)
    if folders:
        _print_faults(faults_of(files))
    _audit(files, options, out, str(options["title"] or title))


def _label(overrides: list[str], options: dict[str, Any], out: Path) -> tuple[list[str], str]:
    """The attribute files of the data that overrides name, labelled, and what the data are called."""
    if not any(override.startswith("data=") for override in overrides):
        overrides = ["data=wds", *overrides]
    config = compose(overrides)
    shards = expand_shards(config.data.train, "data.train", config.data.allow_pipe)
    annotator = build_annotator(config.attributes, shards=shards)
    folder = out / "attributes" / annotator.fingerprint[:12]
    files = annotate_shards(
        shards, annotator, folder, int(options["workers"]), max_bad=config.data.max_bad,
        report=lambda summary: say("\n".join(summary.lines())),
    )  # fmt: skip
    named = config.data.train
    more = f" and {len(shards) - 1} more" if len(shards) > 1 else ""
    title = named if isinstance(named, str) else f"{shards[0]}{more}"
    return [str(path) for path in files], title


def _cells(files: Any, options: dict[str, Any]) -> Cells:
    return count_parquet(files, memory_limit=options["memory_limit"], threads=options["threads"])


def _measure(cells: Cells, options: dict[str, Any], rates: Any = None, target: Any = None) -> DataBias:
    return data_bias(
        cells,
        rates,
        target or options["target"],
        int(options["bootstrap"]),
        float(options["level"]),
        int(options["seed"]),
    )


def _audit(files: list[str], options: dict[str, Any], out: Path, title: str) -> None:
    cells, faults = _cells(files, options), faults_of(files)
    plan, after, rates = None, None, None
    target: dict[str, float] | None = options["target"]
    if options["plan"]:
        plan = load_plan(str(options["plan"]))
        rates = plan.rates(cells.s, cells.y)
        target = {t.name: t.pi for t in plan.targets if t.name in cells.s_names} | (target or {})
        after = _measure(cells, options, rates, target)
    before = _measure(cells, options, target=target)
    combined = intersections(cells, None, before.level), intersections(cells, rates) if plan else None
    top, check = int(options["top"]), None
    if options["label_check"] is not None:
        check = read_check(str(options["label_check"]))
        said = [*_doubts(check, files), *check.notes(before.s_names)]
        faults = [*faults, *said]
        _print_faults(said)
    faults = [*faults, *before.thin()]
    _print_bias(before, after, top, check)
    write_tables(out, before, after, *combined)
    page = write_page(out / "audit.html", title, before, after, plan, rates, cells, combined[0], top, faults)
    print(f"{page}, {out}/associations.csv, attributes.csv, intersections.csv")


def _doubts(check: LabelCheck, files: list[str]) -> list[str]:
    """What speaks against holding a label check against attribute files, a sentence each."""
    others = [file for file in files if made_by(file) != check.annotator]
    if not others:
        return []
    return [f"{check.path} is about labels that were made in another way than {len(others):,} of the attribute files."]


def _compare(folders: list[str], options: dict[str, Any], out: Path) -> None:
    a, b = (_measure(_cells(folder, options), options) for folder in folders)
    faults = [f"{folder}: {fault}" for folder in folders for fault in faults_of(attribute_files(folder))]
    changes = compare(a, b)
    _print_changes(changes, int(options["top"]))
    write_changes(out / "changes.csv", changes)
    _print_faults(faults)
    page = write_comparison(out / "audit.html", folders, a, b, changes, int(options["top"]), faults)
    print(f"{page}, {out}/changes.csv")


def _print_faults(faults: list[str]) -> None:
    for fault in faults:
        print(f"note: {fault}")


def _console() -> Console:
    console = terminal(no_color=True)
    return console if console.width >= WIDTH else terminal(no_color=True, width=WIDTH)


def interval(value: float, low: float, high: float) -> str:
    """A value with its interval, for the terminal."""
    if not np.isfinite(value):
        return ""
    return f"{value:.3f} [{low:.3f}, {high:.3f}]"


def _print_bias(before: DataBias, after: DataBias | None, top: int, check: LabelCheck | None = None) -> None:
    console = _console()
    table = Table(title=f"{before.samples:,.0f} samples, {before.cells:,} patterns", title_justify="left")
    table.add_column("measure")
    for name in ["before", "after"] if after else ["value"]:
        table.add_column(f"{name} [{before.level:.0%} interval]", justify="right")
    data = [one for one in (before, after) if one is not None]
    of = ", ".join(name for name, wanted in zip(before.s_names, before.wanted, strict=True) if wanted)
    for label, name in ((f"RB ({of})", "rb"), (f"AB ({of})", "ab"), ("AB over proxies", "ab_proxies")):
        cells = [getattr(one, name) for one in data]
        if np.isfinite(cells[0].value[0]):
            table.add_row(label, *(interval(one.value[0], one.low[0], one.high[0]) for one in cells))
    table.add_row("AB that chance alone stays below", f"{before.ab_chance:.3f}", *([""] if after else []))
    table.add_row("effective sample size", *(f"{one.effective:,.0f}" for one in data))
    for k, name in enumerate(before.s_names):
        shares = [one.representation for one in data]
        cells = [interval(one.value[k], one.low[k], one.high[k]) for one in shares]
        wanted = f"wanted {before.pi[k]:.2f}, " if before.wanted[k] else ""
        table.add_row(f"share {name} ({wanted}unknown {before.unknown[k]:.1%})", *cells)
        if check is not None and (read := check.share(name)) is not None:
            table.add_row(
                "  without the labels' errors", interval(read.value, read.low, read.high), *([""] if after else [])
            )
    for name, count in before.enough().items():
        told = f"{count:,} of {len(before.y_names):,}"
        table.add_row(f"concepts with at least {ENOUGH} samples of known {name}", told, *([""] if after else []))
    console.print(table)
    if not before.order():
        return
    table = Table(title=f"Largest of {before.tests:,} associations, sure ones first", title_justify="left")
    for column in ("attribute", "concept", "samples", "P(c|1) - P(c|0)", "p (corrected)", "share in concept"):
        table.add_column(column, justify="left" if column in ("attribute", "concept") else "right")
    if after is not None:
        table.add_column("share after", justify="right")
    for k, r in before.order()[:top]:
        one, share = before.association, before.concept_share
        row = [before.s_names[k], before.y_names[r], f"{before.known_count[k, r]:,.0f}",
               interval(one.value[k, r], one.low[k, r], one.high[k, r]), f"{before.p_adjusted[k, r]:.2g}",
               interval(share.value[k, r], share.low[k, r], share.high[k, r])]  # fmt: skip
        if after is not None:
            kept = after.concept_share.value[k, r]
            row.append(f"{kept:.3f}" if np.isfinite(kept) else "none left")
        table.add_row(*row)
    console.print(table)


def _print_changes(changes: list[Change], top: int) -> None:
    table = Table(title=f"Surest of {len(changes):,} differences (b - a)", title_justify="left")
    for column in ("what", "attribute", "concept", "a", "b", "difference", "p (corrected)"):
        table.add_column(column, justify="left" if column in ("what", "attribute", "concept") else "right")
    for one in changes[:top]:
        table.add_row(one.what, one.attribute, one.concept, f"{one.a:.3f}", f"{one.b:.3f}",
                      interval(one.difference, one.low, one.high), f"{one.p_adjusted:.2g}")  # fmt: skip
    _console().print(table)


if __name__ == "__main__":
    run_command(main, __doc__, bare=False, keys=False)
