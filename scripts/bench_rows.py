"""Measure the way from metadata alone to a plan and a subset: time and largest memory of each command.

    python scripts/bench_rows.py rows=10000000 folder=/tmp/bench-rows

Makes a table of captions with ids and similarities, `rows` rows in files of `file_rows`, then runs scripts/annotate.py,
scripts/solve.py and scripts/subset.py on it, each in a process of its own. workers: processes of annotate.py.
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # the project's folder, whichever folder the command runs in
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq

from balance.common.terminal import Table, terminal
from balance.errors import UserError
from conf.app.command import run_command, split_options

ROOT = Path(__file__).resolve().parent.parent
OPTIONS: dict[str, Any] = {"rows": 1_000_000, "file_rows": 5_000_000, "folder": "", "workers": 1}
_GROUP = 250_000
_WHO = ("a woman", "a man", "two men", "a girl", "an old man", "a street", "the sea", "a person", "his dog", "a mother")
_JOBS = ("nurse", "doctor", "chef", "teacher", "mechanic", "painter", "farmer", "lawyer", "pilot", "dancer")
_WHERE = ("in a kitchen", "at work", "in the rain", "on the beach", "with friends", "in 1997", "for sale", "at night")


def make_table(folder: Path, rows: int, file_rows: int) -> None:
    """Files of captions such as "a woman doctor at work, photo 1234", whose ids are random 128-bit numbers."""
    rng = np.random.default_rng(0)
    for number, start in enumerate(range(0, rows, file_rows)):
        writer: pq.ParquetWriter | None = None
        for at in range(start, min(rows, start + file_rows), _GROUP):
            table = _group(rng, at, min(_GROUP, rows - at, start + file_rows - at))
            writer = writer or pq.ParquetWriter(folder / f"{number:05d}.parquet", table.schema)
            writer.write_table(table)
        assert writer is not None
        writer.close()


def _group(rng: np.random.Generator, at: int, n: int) -> pa.Table:
    who, job, where = (np.array(words)[rng.integers(0, len(words), n)] for words in (_WHO, _JOBS, _WHERE))
    numbers = np.arange(at, at + n)
    texts = [f"{a} {b} {c}, photo {d}" for a, b, c, d in zip(who, job, where, numbers, strict=True)]
    ids = [half.tobytes().hex() for half in rng.integers(0, 2**63, (n, 2))]
    return pa.table({"uid": ids, "text": texts, "similarity": rng.random(n, np.float32)})


def measure(script: str, *arguments: str) -> tuple[float, float, float]:
    """Seconds by the clock, CPU seconds, and largest memory in GiB (process and workers together) of a command."""
    began = time.monotonic()
    process = psutil.Popen([sys.executable, str(ROOT / "scripts" / script), *arguments], stdout=subprocess.DEVNULL)
    largest, cpu = 0, 0.0
    while process.poll() is None:
        used, spent = 0, 0.0
        for one in [process, *_children(process)]:
            try:
                used += one.memory_info().rss
                spent += sum(one.cpu_times()[:2])
            except psutil.Error:
                continue
        largest, cpu = max(largest, used), max(cpu, spent)
        time.sleep(0.2)
    if process.returncode:
        raise UserError(f"scripts/{script} failed with status {process.returncode}; its message is above.")
    return time.monotonic() - began, cpu, largest / 2**30


def _children(process: psutil.Process) -> list[psutil.Process]:
    try:
        return process.children(recursive=True)
    except psutil.Error:
        return []


def main(arguments: list[str]) -> None:
    options, rest = split_options(arguments, OPTIONS)
    if rest:
        raise UserError(f"{rest[0]} is no setting; there are {', '.join(OPTIONS)}.")
    with tempfile.TemporaryDirectory(dir=options["folder"] or None) as made:
        folder = Path(made)
        (folder / "tables").mkdir()
        make_table(folder / "tables", int(options["rows"]), int(options["file_rows"]))
        size = sum(path.stat().st_size for path in (folder / "tables").iterdir()) / 2**30
        labels, plan = f"{folder}/labels", f"{folder}/plan"
        steps = {
            "annotate": (
                "annotate.py", f"data.train={folder}/tables", "data.columns={key: uid, caption: text}",
                "data.where=similarity > 0.1", "attributes=captions", f"out={labels}", f"workers={options['workers']}",
            ),
            "solve": ("solve.py", f"attributes={labels}", f"out={plan}"),
            "subset, uids": (
                "subset.py", f"plan={plan}", f"attributes={labels}", "format=uids", f"out={folder}/u.npy", "workers=0",
            ),
        }  # fmt: skip
        table = Table(title=f"{int(options['rows']):,} rows, {size:.2f} GiB, {os.cpu_count()} cores")
        for name in ("command", "seconds", "CPU seconds", "rows per CPU second", "largest memory, GiB"):
            table.add_column(name, justify="left" if name == "command" else "right")
        for name, command in steps.items():
            clock, cpu, memory = measure(*command)
            rate = int(options["rows"]) / max(cpu, 1e-9)
            table.add_row(name, f"{clock:,.0f}", f"{cpu:,.0f}", f"{rate:,.0f}", f"{memory:.2f}")
        terminal(width=110).print(table)


if __name__ == "__main__":
    run_command(main, __doc__, bare=False)
