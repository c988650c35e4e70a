"""A plan on disk: `plan.json` and `cells.parquet` in one folder."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import scipy.sparse as sp
from numpy.typing import NDArray

from balance.errors import UserError
from balance.files import whole_file
from balance.m4.cells import Cells
from balance.m4.explain import explain
from balance.m4.plan import Plan, make_plan
from balance.m4.problem import Problem
from balance.m4.solution import Solution
from balance.m4.system import build_system

Floats = NDArray[np.float64]
VERSION = 1


def save_plan(plan: Plan, folder: str | Path) -> Path:
    """Write the plan; `plan.json` comes last, so that its presence means that the folder is whole."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "plan.json").unlink(missing_ok=True)
    table = cells_table(plan.cells, {"q": plan.q, **_given_arrays(plan.problem)})
    with whole_file(folder / "cells.parquet") as part:
        pq.write_table(table, part, compression="zstd")
    with whole_file(folder / "plan.json") as part:
        part.write_text(json.dumps(plan_document(plan), indent=1), encoding="utf-8")
    return folder


def plan_document(plan: Plan) -> dict[str, Any]:
    """Everything of a plan but its cells, as plain values."""
    return {
        "version": VERSION,
        "hash": plan.hash,
        "cells_hash": plan.cells.hash,
        "method": plan.method,
        "problem": plan.problem.to_dict(),
        "targets": [asdict(target) for target in plan.targets],
        "s_names": plan.cells.s_names,
        "y_names": plan.cells.y_names,
        "proxies": plan.cells.proxies,
        "bins": plan.cells.bins,
        "s_error": plan.cells.s_error,
        "keep": plan.keep,
        "mu": plan.mu,
        "labels": plan.labels,
        "v": plan.v.tolist(),
        "prices": plan.prices.tolist(),
        "set_aside": np.flatnonzero(plan.set_aside).tolist(),
        "wanted_gap": plan.wanted_gap,
        "certificate": asdict(plan.certificate),
        "summary": plan.summary(),
        "before": plan.before.to_dict(),
        "after": plan.after.to_dict(),
        "kept_concepts": {k: None if np.isnan(v) else v for k, v in plan.kept.concepts.items()},
        "explanation": explain(plan),
    }


def load_plan(folder: str | Path) -> Plan:
    """Read a plan, rebuild what follows from it, and compare with what was stored.

    Raises:
        UserError: the folder holds no plan, or the plan is corrupted.
    """
    folder = Path(folder)
    file = folder / "plan.json"
    if not file.is_file():
        raise UserError(f"{folder} holds no plan.json: make a plan with scripts/solve.py, or name another folder")
    try:
        stored = json.loads(file.read_text(encoding="utf-8"))
        cells, columns = read_cells(folder / "cells.parquet", stored)
    except (json.JSONDecodeError, KeyError, OSError, pa.ArrowException) as error:
        raise UserError(f"{folder} holds a damaged plan ({error}): make it again with scripts/solve.py") from error
    arrays = {name: columns[name] for name in ("utility", "base_weights") if name in columns}
    problem = Problem.from_dict(stored["problem"] | arrays)
    system = build_system(cells, problem)
    set_aside = np.zeros(system.size, bool)
    set_aside[stored["set_aside"]] = True
    rates = Solution(
        columns["q"], np.array(stored["v"]), stored["mu"], stored["keep"], np.array(stored["prices"]), set_aside
    )
    if system.labels(cells.y_names) != stored["labels"]:
        raise UserError(f"{folder} holds a corrupted plan: its constraints are not those of its problem; solve again")
    plan = make_plan(cells, problem, system, rates, stored["method"], stored["wanted_gap"])
    if plan.hash != stored["hash"] or not np.isclose(plan.primal, stored["certificate"]["primal"], rtol=1e-9):
        raise UserError(f"{folder} holds a corrupted plan: its rates do not give the values it claims; solve again")
    return plan


def cells_table(cells: Cells, columns: dict[str, Floats]) -> pa.Table:
    """Cells as a table: `s.<name>`, `y` (list of concept numbers), `count`, and further columns."""
    offsets = pa.array(cells.y.indptr.astype(np.int64))
    concepts = pa.LargeListArray.from_arrays(offsets, pa.array(cells.y.indices.astype(np.int32)))
    arrays: dict[str, Any] = {f"s.{name}": cells.s[:, k] for k, name in enumerate(cells.s_names)}
    return pa.table(arrays | {"y": concepts, "count": cells.counts} | columns)


def read_cells(path: Path, names: dict[str, Any]) -> tuple[Cells, dict[str, Floats]]:
    """The inverse of `cells_table`; `names` holds s_names, y_names, proxies, bins and s_error."""
    table = pq.read_table(path)
    s = np.column_stack([table[f"s.{name}"].to_numpy() for name in names["s_names"]])
    concepts = table["y"].combine_chunks()
    if isinstance(concepts, pa.ChunkedArray):
        concepts = pa.concat_arrays(concepts.chunks)
    indptr, indices = concepts.offsets.to_numpy(), concepts.values.to_numpy()
    y = sp.csr_array((np.ones(indices.size, np.uint8), indices, indptr), shape=(len(table), len(names["y_names"])))
    cells = Cells(
        s,
        y,
        table["count"].to_numpy(),
        tuple(names["s_names"]),
        tuple(names["y_names"]),
        tuple(names["proxies"]),
        names["bins"],
        names["s_error"],
    )
    columns = {name: table[name].to_numpy() for name in table.column_names if not name.startswith("s.") and name != "y"}
    return cells, columns


def _given_arrays(problem: Problem) -> dict[str, Floats]:
    """Arrays of one value a cell that the problem was given."""
    arrays = {}
    if problem.utility is not None and not hasattr(problem.utility, "items"):
        arrays["utility"] = np.asarray(problem.utility, np.float64)
    if problem.base_weights is not None:
        arrays["base_weights"] = np.asarray(problem.base_weights, np.float64)
    return arrays
