"""Balancing a stream without a pass over it beforehand: a running table of cells, solved again every N samples.

Each worker or rank collects the patterns it meets and hands them over at a `sync`; all add up the same tables and so
arrive at the same plan. On a stationary stream the table converges to the data's own, and the rates to those of the
offline plan; with a half-life old samples fade, so that the rates follow a drifting stream.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import ArrayLike, NDArray

from balance.m4.cells import Cells
from balance.m4.plan import Plan, make_plan
from balance.m4.problem import Problem
from balance.m4.solution import Solution
from balance.m4.solve import solve
from balance.m4.system import build_system

Floats = NDArray[np.float64]
GAP = 1e-6
Gather = Callable[[Cells | None], Sequence[Cells | None]]


class OnlineBalancer:
    """Rates for a stream, from what it has shown so far.

    Args:
        problem: what is asked. Arrays of one value a cell have no meaning here.
        s_names: names of the attributes.
        y_names: names of the concepts.
        every: samples (over all workers) between two solves.
        half_life: samples after which a sample counts half; None keeps all at full weight.
        proxies: names of concepts that are proxies.
        bins: round probabilities to multiples of 1/bins.
        gather: exchanges the new cells of all workers or ranks, in the same order everywhere (such as
            `torch.distributed.all_gather_object`); by default there is one worker.
    """

    def __init__(
        self,
        problem: Problem,
        s_names: Sequence[str],
        y_names: Sequence[str],
        *,
        every: int = 10_000,
        half_life: float | None = None,
        proxies: Sequence[str] = (),
        bins: int | None = None,
        gather: Gather = lambda cells: [cells],
    ) -> None:
        self.problem, self.every, self.half_life, self.gather = problem, every, half_life, gather
        self.names: dict[str, Any] = {"s_names": tuple(s_names), "y_names": tuple(y_names), "proxies": tuple(proxies)}
        self.bins = bins
        self.table: Cells | None = None
        self.plan: Plan | None = None
        self._new: list[tuple[Floats, sp.csr_array]] = []
        self._unsolved = 0.0

    @property
    def pending(self) -> int:
        """Samples seen by this worker since the last sync."""
        return sum(s.shape[0] for s, _ in self._new)

    def observe(self, s: ArrayLike, y: Any) -> Floats:
        """See samples s (b, m), y (b, c), accepted or not, and return their rates (b,) under the current plan.

        The plan changes at a `sync` alone, which all workers must call together.
        """
        s_array, concepts = np.asarray(s, np.float64), sp.csr_array(y)
        rates = self.rates(s_array, concepts)
        self._new.append((s_array, concepts))
        return rates

    def rates(self, s: ArrayLike, y: Any) -> Floats:
        """Rates (b,) under the current plan; the keep rate (or 1 for "auto") before the first."""
        if self.plan is None:
            keep = 1.0 if isinstance(self.problem.keep, str) else float(self.problem.keep)
            return np.full(np.shape(s)[0], keep)
        return self.plan.rates(s, y)

    def take_new(self) -> Cells | None:
        """The patterns seen since the last call, counted, and forget them; None where there were none."""
        if not self._new:
            return None
        s = np.vstack([part[0] for part in self._new])
        y = sp.csr_array(sp.vstack([part[1] for part in self._new]))
        self._new = []
        return Cells.from_arrays(s, y, bins=self.bins, **self.names)

    def sync(self) -> bool:
        """Exchange what is new, and solve again when `every` samples have come; returns whether the plan changed."""
        for cells in self.gather(self.take_new()):
            if cells is not None:
                self._add(cells)
        if self.table is None or self._unsolved < self.every or not self._all_known():
            return False
        self._unsolved = 0.0
        self.plan = solve(self.table, self.problem, gap=GAP, warm_start=self.plan)
        return True

    def _add(self, cells: Cells) -> None:
        """Fade the table by the samples that came, and add them."""
        self._unsolved += cells.total
        if self.table is None:
            self.table = cells
            return
        fade = 1.0 if self.half_life is None else 0.5 ** (cells.total / self.half_life)
        counts = self.table.counts * fade
        kept = counts > 1e-6  # a pattern that has faded this far moves no constraint
        s = np.vstack([self.table.s[kept], cells.s])
        y = sp.csr_array(sp.vstack([self.table.y[kept], cells.y]))
        self.table = Cells.from_arrays(s, y, np.concatenate([counts[kept], cells.counts]), bins=self.bins, **self.names)

    def _all_known(self) -> bool:
        """Whether every attribute has been seen known at least once; before that there is nothing to balance."""
        assert self.table is not None
        return bool((~np.isnan(self.table.s)).any(axis=0).all())

    def state_dict(self) -> dict[str, Any]:
        """Everything that a resumed stream needs, the plan in force included; call it right after a `sync`."""
        assert not self._new, "sync before saving, or the samples in between are lost"
        return {
            "table": None if self.table is None else _pack(self.table),
            "unsolved": self._unsolved,
            "plan": None if self.plan is None else _pack(self.plan.cells) | {"rates": self.plan.solution},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up where `state_dict` was called."""
        self._new, self._unsolved = [], float(state["unsolved"])
        self.table = None if state["table"] is None else self._unpack(state["table"])
        self.plan = None
        if state["plan"] is not None:
            cells = self._unpack(state["plan"])
            system = build_system(cells, self.problem)
            self.plan = make_plan(cells, self.problem, system, Solution(*state["plan"]["rates"]), "dual", GAP)

    def _unpack(self, stored: dict[str, Any]) -> Cells:
        indices = stored["indices"]
        shape = (len(stored["counts"]), len(self.names["y_names"]))
        y = sp.csr_array((np.ones(indices.size, np.uint8), indices, stored["indptr"]), shape=shape)
        return Cells.from_arrays(stored["s"], y, stored["counts"], bins=self.bins, **self.names)


def _pack(cells: Cells) -> dict[str, Any]:
    return {"s": cells.s, "indptr": cells.y.indptr, "indices": cells.y.indices, "counts": cells.counts}
