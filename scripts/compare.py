"""Compare runs on one page: what differs, and which differences survive a paired test over seeds.

`python scripts/compare.py runs/a runs/b ... [out=compare.html] [title='...'] [picture=summary.svg]`. The first run is
what the page is about: put the one whose effect you ask for first, what it is compared with second. `picture` writes
the chart of the summary by itself. Runs that differ in their seed alone are one treatment; a difference between two
treatments is called one from three shared seeds on, never on one.
"""

from pathlib import Path

from balance.common.terminal import Table, say, terminal
from balance.errors import UserError
from balance.files import write_whole
from conf.app.command import run_command, split_paths
from eval.report.page import format_interval, format_number
from eval.report.run_charts import headline_chart
from eval.report.run_page import render
from eval.report.run_tables import headline_table, no_baseline, one_seed_note, unequal_length
from eval.report.rundata import RunData, load_run
from eval.treatments import paired_table


def main(arguments: list[str]) -> int:
    """Write the page, print the summary."""
    options, folders = split_paths(arguments, ("out", "title", "picture"))
    if len(folders) < 2:
        raise UserError("Name at least two runs to compare, such as runs/balanced runs/unbalanced.")
    runs = distinct([load_run(folder) for folder in folders])
    for run in runs:
        if not run.evaluated():
            raise UserError(f"{run.folder} has no evaluation yet; compare runs that have.")
    console = terminal()
    console.print(summary(runs))
    if unequal := unequal_length(runs):
        say(f"note: {unequal}")
    if sentence := no_baseline(runs):
        say(f"note: {sentence}")
    paired = paired_table(runs)
    if paired:
        console.print(seeds(paired))
    else:
        say(f"note: {one_seed_note()}")
    chart = headline_chart(runs)
    if "picture" in options and chart is not None:
        say(f"Picture: {write_whole(Path(options['picture']), chart)}")
    out = Path(options.get("out", "compare.html"))
    title = options.get("title") or " and ".join(run.name for run in runs[:3]) + (" …" if len(runs) > 3 else "")
    say(f"Page: {write_whole(out, render(runs, title, paired))}")
    return 0


def distinct(runs: list[RunData]) -> list[RunData]:
    """The runs, those of equal names told apart by their folders."""
    names = [run.name for run in runs]
    for run, name in zip(runs, names, strict=True):
        if names.count(name) > 1:
            run.config["name"] = str(run.folder)
    return runs


def summary(runs: list[RunData]) -> Table:
    """The metrics of the summary, a column for each run."""
    table = Table(title="Last evaluation of each run", title_justify="left")
    table.add_column("measure")
    for run in runs:
        table.add_column(run.name, justify="right")
    if len(runs) == 2:
        table.add_column("")
    for row in headline_table(runs):
        ends = format_interval if len(runs) <= 3 else lambda value: ""  # a terminal is only so wide
        cells = [
            "–" if value is None else f"{format_number(value['value'])} {ends(value)}".strip()
            for value in row["values"]
        ]
        table.add_row(row["label"], *cells, *([row["verdict"]] if len(runs) == 2 else []))
    return table


def seeds(paired: list[dict[str, object]]) -> Table:
    """Differences between treatments over seeds."""
    table = Table(title="Paired by seed", title_justify="left")
    for name in ("measure", "treatments", "seeds", "mean difference, 95 %", "p (t)", "p (Wilcoxon)", "over seeds"):
        table.add_column(name, justify="left" if name in ("measure", "treatments", "over seeds") else "right")
    for row in paired:
        table.add_row(
            str(row["label"]),
            f"{row['first']} – {row['second']}",
            str(row["n"]),
            f"{row['mean']:+.3f} {format_interval(row)}",
            format_number(row["p_t"]),
            format_number(row["p_wilcoxon"]),
            str(row["verdict"]),
        )
    return table


if __name__ == "__main__":
    run_command(main, __doc__, keys=False)
