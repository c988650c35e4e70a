"""Times of the M4 solver, as markdown: `python scripts/bench_solver.py general|large|cells|concepts|rows`.

general   against cvxpy with general solvers on the same cells
large     m = 4, c = 2,000, 5 million cells
cells     growth with the number of cells
concepts  growth with the number of concepts
rows      from attribute files (scripts/make_attribute_rows.py) to a saved plan, growth with rows
"""

from __future__ import annotations

import argparse
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # the project's folder, whichever folder the command runs in
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import scipy.sparse as sp

from balance import Cells, Plan, Problem, solve
from balance.errors import UserError
from balance.m4.counting import count_parquet
from balance.m4.planfile import save_plan
from conf.app.command import run_command
from scripts.make_attribute_rows import draw_samples


def made_up(samples: int, m: int, c: int, labels: float, skew: float, seed: int = 0) -> Cells:
    """Cells of made-up samples."""
    s, indptr, concepts = draw_samples(samples, m, c, labels, skew, seed)
    y = sp.csr_array((np.ones(concepts.size, np.uint8), concepts, indptr), shape=(samples, c))
    y.sum_duplicates()
    y.data[:] = 1
    return Cells.from_arrays(s, y)


def problem_for(cells: Cells, keep: float | str) -> Problem:
    """Every attribute to a half, the default tolerances and floors."""
    return Problem(target=dict.fromkeys(cells.s_names, 0.5), keep=keep)


def timed(call: Callable[[], Plan]) -> tuple[float, Plan]:
    """Seconds and the plan."""
    began = time.perf_counter()
    plan = call()
    return time.perf_counter() - began, plan


def memory() -> float:
    """Most memory this process held so far, in GiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def row(*values: Any) -> None:
    """One row of a markdown table."""
    print("| " + " | ".join(f"{v:.4g}" if isinstance(v, float) else str(v) for v in values) + " |", flush=True)


def header(*names: str) -> None:
    """The head of a markdown table."""
    print("| " + " | ".join(names) + " |\n|" + "---|" * len(names), flush=True)


def general(args: argparse.Namespace) -> None:
    """The dual solver against general ones."""
    cells = made_up(args.samples, 2, 50, 4.0, 0.5)
    problem = problem_for(cells, args.keep)
    seconds, best = min((timed(lambda: solve(cells, problem)) for _ in range(5)), key=lambda pair: pair[0])
    print(f"{len(cells):,} cells, {best.v.size} constraint sides, keep {best.keep:.3f}\n")
    header("method", "seconds", "times slower", "cost", "relative difference", "own gap")
    row("dual", seconds, 1.0, f"{best.primal:.9f}", 0.0, best.gap)
    for name in args.solvers:
        try:
            took, plan = timed(lambda name=name: solve(cells, problem, "cvxpy", solver=name))  # type: ignore[misc]
        except UserError as error:
            row(name, str(error), "", "", "", "")
            continue
        difference = (plan.primal - best.primal) / best.primal
        row(name, took, took / seconds, f"{plan.primal:.9f}", difference, plan.gap)
    took, plan = timed(lambda: solve(cells, problem, "stochastic"))
    row("stochastic", took, took / seconds, f"{plan.primal:.9f}", (plan.primal - best.primal) / best.primal, plan.gap)


def large(args: argparse.Namespace) -> None:
    """Many attributes, concepts and cells at once."""
    header("cells", "skew", "keep", "make cells s", "solve s", "gap", "unmet", "GiB")
    for skew in args.skews:
        began = time.perf_counter()
        cells = made_up(int(args.cells * 1.03), 4, 2000, 6.0, skew)
        made = time.perf_counter() - began
        seconds, plan = timed(lambda cells=cells: solve(cells, problem_for(cells, args.keep)))  # type: ignore[misc]
        row(f"{len(cells):,}", skew, plan.keep, made, seconds, plan.gap, len(plan.violations), memory())
        del cells, plan


def growth_cells(args: argparse.Namespace) -> None:
    """Time against the number of cells: m = 2, c = 200."""
    header("cells", "solve s, keep 0.5", "solve s, keep auto", "largest rate", "gap")
    for samples in (10_000, 100_000, 1_000_000, 4_000_000):
        cells = made_up(samples, 2, 200, 5.0, 0.5)
        seconds, plan = timed(lambda cells=cells: solve(cells, problem_for(cells, 0.5)))  # type: ignore[misc]
        auto, chosen = timed(lambda cells=cells: solve(cells, problem_for(cells, "auto")))  # type: ignore[misc]
        row(f"{len(cells):,}", seconds, auto, chosen.keep, max(plan.gap, chosen.gap))


def growth_concepts(args: argparse.Namespace) -> None:
    """Time against the number of concepts: m = 2, 500,000 samples."""
    header("concepts", "cells", "constraint sides", "solve s, keep 0.5", "gap")
    for c in (10, 50, 200, 1000, 5000):
        cells = made_up(500_000, 2, c, 5.0, 0.5)
        seconds, plan = timed(lambda cells=cells: solve(cells, problem_for(cells, 0.5)))  # type: ignore[misc]
        row(c, f"{len(cells):,}", plan.v.size, seconds, plan.gap)


def growth_rows(args: argparse.Namespace) -> None:
    """Time against rows, from files to a saved plan."""
    files = sorted(Path(args.folder).glob("*.parquet"))
    if not files:
        raise UserError(f"{args.folder} holds no attribute files: make them with scripts/make_attribute_rows.py")
    header("rows", "cells", "count s", "solve s", "save s", "all s", "GiB")
    sizes = [n for n in (1, 10, 100, 1000) if n < len(files)]
    for n in [*sizes, len(files)]:
        began = time.perf_counter()
        cells = count_parquet(list(map(str, files[:n])), memory_limit=args.memory_limit, threads=args.threads)
        counted = time.perf_counter()
        plan = solve(cells, problem_for(cells, args.keep))
        solved = time.perf_counter()
        folder = tempfile.mkdtemp()
        save_plan(plan, folder)
        saved = time.perf_counter()
        shutil.rmtree(folder)
        steps = (counted - began, solved - counted, saved - solved, saved - began)
        row(f"{cells.total:,.0f}", f"{len(cells):,}", *steps, memory())


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["general", "large", "cells", "concepts", "rows"])
    parser.add_argument("--samples", type=int, default=100_000)
    parser.add_argument("--cells", type=int, default=5_000_000)
    parser.add_argument("--keep", type=float, default=0.5)
    parser.add_argument("--skews", type=float, nargs="+", default=[0.5])
    parser.add_argument("--solvers", nargs="*", default=["CLARABEL", "OSQP", "SCS"])
    parser.add_argument("--folder", default="rows")
    parser.add_argument("--memory-limit", default="4GB")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args(arguments)
    jobs = {"general": general, "large": large, "cells": growth_cells, "concepts": growth_concepts, "rows": growth_rows}
    jobs[args.what](args)


if __name__ == "__main__":
    run_command(main)
