"""What a run ends with on the terminal: the headline figures before training and after it."""

import os
from pathlib import Path

from balance.common.metric import Row
from balance.common.terminal import Table, terminal
from eval.report.run_tables import headline_table, no_baseline
from eval.report.rundata import load_run


def summarise(folder: Path) -> str:
    """The table of a run's headline metrics as text; empty where none was measured.

    Args:
        folder: the run's.
    """
    run = load_run(folder)
    rows = [row for row in headline_table([run]) if row["values"][0] is not None]
    if not rows:
        return ""
    table = Table(title="Measured, with 95 % intervals", title_justify="left")
    table.add_column("")
    for column in ("before training", "after", "change"):
        table.add_column(column, justify="right")
    table.add_column("")
    for row in rows:
        change = "" if row["change"] is None else f"{row['change']:+.3f}"
        table.add_row(row["label"], _figure(row["start"]), _figure(row["values"][0]), change, row["verdict"])
    console = terminal(width=None if os.environ.get("COLUMNS") else 110, no_color=True)
    with console.capture() as capture:
        console.print(table)
    return "\n".join(filter(None, [capture.get().rstrip(), no_baseline([run])]))


def _figure(row: Row | None) -> str:
    if row is None:
        return ""
    interval = "" if row["low"] is None else f" [{row['low']:.3f}, {row['high']:.3f}]"
    return f"{row['value']:.3f}{interval}"
