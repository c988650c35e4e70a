"""A plan: the rates, the prices that explain them, the certificate that proves them, and what they do to the data."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import ArrayLike, NDArray

from balance.errors import UserError
from balance.m4.autokeep import largest_rate
from balance.m4.cells import Cells, fingerprint_rows, round_s
from balance.m4.certificate import Certificate, certify_rates
from balance.m4.moments import Moments, effective_per_epoch, effective_sample_size, moments_of
from balance.m4.problem import Problem
from balance.m4.solution import Solution
from balance.m4.system import System, build_system, utility_of
from balance.m4.targets import Target, product_columns
from balance.m4.violations import Violation, find_violations

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Kept:
    """Mean rates of parts of the data: 0.8 means that 80 % is used in the mean (above 1: repeated).

    Attributes:
        all: mean over all samples; equal to the keep rate.
        known: over samples with at least one known targeted attribute.
        unknown: over samples with none; NaN where there are none.
        concepts: over the samples that bear each concept; NaN where none does.
        attributes: for each targeted column (known, unknown).
    """

    all: float
    known: float
    unknown: float
    concepts: dict[str, float]
    attributes: dict[str, tuple[float, float]]

    @property
    def smallest(self) -> tuple[str, float] | None:
        """The concept that loses most."""
        held = {name: rate for name, rate in self.concepts.items() if not np.isnan(rate)}
        return min(held.items(), key=lambda item: item[1]) if held else None


@dataclass(frozen=True, eq=False)
class Plan:
    """The solution of an M4 problem on some cells.

    Attributes:
        cells, problem, method: what was solved, and how.
        targets: the balanced columns.
        q: (n,) rate of each cell.
        v: (J,) price of each constraint; mu: price of the keep rate; prices: (J,) V_j, the tops of v.
        labels: (J,) names of the constraints: `woman+` (share too high), `woman-|nurse`, `floor|nurse`.
        set_aside: (J,) constraints that `keep="auto"` could not make hold at any rate.
        keep: eta.
        certificate: primal, dual and gap, recomputed from q, v and mu.
        wanted_gap: the relative gap that was asked for.
        table: (F, N) the prices by (feature, concept), for rates of any pattern.
        before, after: moments of the data as it is, and at the rates q.
        moments_before, moments_after: the (F, N) tables that they come from.
        kept: mean rates of parts of the data.
        violations: constraints that do not hold.
    """

    cells: Cells
    problem: Problem
    method: str
    targets: list[Target]
    q: Floats
    v: Floats
    mu: float
    keep: float
    labels: list[str]
    prices: Floats
    set_aside: NDArray[np.bool_]
    certificate: Certificate
    wanted_gap: float
    table: Floats
    before: Moments
    after: Moments
    moments_before: Floats
    moments_after: Floats
    kept: Kept
    violations: list[Violation]
    effective_sample_size: float
    effective_per_epoch: float

    @property
    def primal(self) -> float:
        """Cost of the rates, penalties included."""
        return self.certificate.primal

    @property
    def dual(self) -> float:
        """Lower bound on the cost of any rates."""
        return self.certificate.dual

    @property
    def gap(self) -> float:
        """(primal - dual) / primal, see `balance.m4.certificate`."""
        return self.certificate.gap

    @property
    def solution(self) -> tuple[Floats, Floats, float, float, Floats, NDArray[np.bool_]]:
        """What a method found, in the order of the fields of `Solution`; the rest follows from it."""
        return self.q, self.v, self.mu, self.keep, self.prices, self.set_aside

    @cached_property
    def hash(self) -> str:
        """Hex digest of what was asked, of which data, and of the prices found."""
        asked = self.problem.to_dict()
        if not asked["hold_rare"]:  # plans from before this setting keep their hash
            del asked["hold_rare"]
        digest = hashlib.sha256(json.dumps([asked, self.method], sort_keys=True).encode())
        digest.update(self.cells.hash.encode())
        for array in (self.q, self.v, np.array([self.mu, self.keep])):
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()[:16]

    def rate(self, s_row: ArrayLike, y_row: ArrayLike) -> float:
        """Rate q of one sample with attributes `s_row` (m,) and concepts `y_row` (c,), seen before or not."""
        return float(self.rates(np.asarray(s_row, np.float64)[None, :], np.asarray(y_row)[None, :])[0])

    def rates(self, s: ArrayLike, y: Any) -> Floats:
        """Rates of samples: q = clip(eta u - a . v - mu, 0, Q).

        Args:
            s: (n, m) attributes in the order of `cells.s_names`, NaN where unknown.
            y: (n, c) 0/1 concepts in the order of `cells.y_names`, dense or scipy sparse.

        Returns:
            (n,) float64.

        Raises:
            UserError: the columns are not those of the plan.
        """
        s_array, _ = round_s(np.asarray(s, np.float64), self.cells.bins)
        concepts = sp.csr_array(y, dtype=np.float64)
        expected = (len(self.cells.s_names), len(self.cells.y_names))
        if (s_array.shape[1], concepts.shape[1]) != expected or s_array.shape[0] != concepts.shape[0]:
            raise UserError(
                f"s has shape {s_array.shape} and y {concepts.shape}, but this plan is for {expected[0]} attributes "
                f"and {expected[1]} concepts: annotate with the configuration that the plan was made from"
            )
        columns = product_columns(s_array, self.cells.s_names, [target.factors for target in self.targets])
        known = ~np.isnan(columns)
        pi = np.array([target.pi for target in self.targets])
        phi = np.hstack([np.where(known, columns - pi, 0.0), known, np.ones((len(columns), 1))])
        table = self.table[: phi.shape[1]]
        scores = phi @ table[:, 0] + np.einsum("nf,nf->n", phi, concepts @ np.ascontiguousarray(table[:, 1:].T))
        u = self._utility(s_array, concepts)
        return np.clip(self.keep * u - scores - self.mu, 0.0, self.problem.max_repeat)

    def _utility(self, s: Floats, y: sp.csr_array) -> Floats:
        u = utility_of(self.problem, s, y, self.cells.s_names, self.cells.y_names)
        if u is not None:
            return u
        given = np.asarray(self.problem.utility, np.float64)
        return np.array([given[self._index[key]] if key in self._index else 1.0 for key in _keys(s, y)])

    @cached_property
    def _index(self) -> dict[tuple[bytes, int, int], int]:
        return {key: i for i, key in enumerate(_keys(self.cells.s, self.cells.y))}

    @cached_property
    def attainable_rate(self) -> float:
        """The largest keep rate at which every constraint would hold; 0 where there is none."""
        system = build_system(self.cells, self.problem)
        return largest_rate(system, self.problem.max_repeat, np.ones(system.size, bool)).low

    def check(self) -> Certificate:
        """Recompute the certificate from the data.

        Raises:
            ValueError: the rates are not feasible, or the recomputed values are not the stored ones.
        """
        system = build_system(self.cells, self.problem)
        fresh = certify_rates(system, self.q, self.v, self.mu, self.keep, self.problem.max_repeat, self.prices)
        for name in ("primal", "dual"):
            stored, found = getattr(self.certificate, name), getattr(fresh, name)
            if not np.isclose(stored, found, rtol=1e-9, atol=1e-9 * max(self.keep, 1.0) ** 2):
                raise ValueError(
                    f"the plan is corrupted: its {name} value is stored as {stored:.12g} but its rates and prices "
                    f"give {found:.12g}; solve again"
                )
        return fresh

    @property
    def constrained(self) -> NDArray[np.bool_]:
        """(c,) the concepts whose association is constrained; rare ones may be left out, and tell chance, not bias."""
        named = {label.partition("|")[2] for label in self.labels if not label.startswith("floor|")}
        return np.array([name in named for name in self.cells.y_names], bool)

    def summary(self) -> dict[str, float | str | None]:
        """The plan in one flat table; the worst concept is that of the constrained ones."""
        smallest = self.kept.smallest
        values: dict[str, float | str | None] = {"keep": self.keep}
        for when, moments in (("before", self.before), ("after", self.after)):
            worst = moments.worst_concept(among=self.constrained)
            values[f"rb_{when}"] = moments.representation_bias
            values[f"ab_{when}"] = moments.association_bias
            values[f"ab_proxies_{when}"] = moments.proxy_association_bias if moments.proxies.any() else None
            values[f"worst_concept_{when}"] = worst[0] if worst else None
            values[f"worst_attribute_{when}"] = worst[1] if worst else None
            values[f"worst_gap_{when}"] = worst[2] if worst else None
        values |= {
            "kept_all": self.kept.all,
            "kept_known": self.kept.known,
            "kept_unknown": None if np.isnan(self.kept.unknown) else self.kept.unknown,
            "kept_smallest": smallest[1] if smallest else None,
            "kept_smallest_concept": smallest[0] if smallest else None,
            "samples": self.cells.total,
            "cells": float(len(self.cells)),
            "effective_sample_size": self.effective_sample_size,
            "effective_per_epoch": self.effective_per_epoch,
            "primal": self.primal,
            "dual": self.dual,
            "gap": self.gap,
            "violations": float(len(self.violations)),
            "set_aside": float(self.set_aside.sum()),
            "grouping_error": self.cells.s_error,
        }
        return values

    def prices_for(self, system: System) -> Floats:
        """(J,) this plan's prices in the order of another system over the same names; 0 where it has none."""
        found = dict(zip(self.labels, self.v.tolist(), strict=True))
        return np.array([found.get(label, 0.0) for label in system.labels(self.cells.y_names)])


def _keys(s: Floats, y: sp.csr_array) -> list[tuple[bytes, int, int]]:
    first, second = fingerprint_rows(y)
    rows = np.nan_to_num(s, nan=-1.0) + 0.0
    return [(row.tobytes(), int(a), int(b)) for row, a, b in zip(rows, first, second, strict=True)]


def make_plan(cells: Cells, problem: Problem, system: System, rates: Solution, method: str, gap: float) -> Plan:
    """Assemble a plan from rates and prices; everything else is computed here, from the data."""
    certificate = certify_rates(system, rates.q, rates.v, rates.mu, rates.keep, problem.max_repeat, rates.prices)
    names = set(problem.proxies) | set(cells.proxies)
    proxies = np.array([name in names for name in cells.y_names], bool)
    before = system.operator.moments(system.p)
    after = system.operator.moments(system.p * rates.q)
    return Plan(
        cells=cells,
        problem=problem,
        method=method,
        targets=system.targets,
        q=rates.q,
        v=rates.v,
        mu=rates.mu,
        keep=rates.keep,
        labels=system.labels(cells.y_names),
        prices=rates.prices,
        set_aside=rates.set_aside,
        certificate=certificate,
        wanted_gap=gap,
        table=(system.matrix.T @ rates.v).reshape(system.operator.shape),
        before=moments_of(before, system.targets, cells.y_names, proxies),
        after=moments_of(after, system.targets, cells.y_names, proxies),
        moments_before=before,
        moments_after=after,
        kept=_kept(cells, system, rates.q, before, after),
        violations=find_violations(system, problem, rates, cells.y_names, before, after),
        effective_sample_size=effective_sample_size(_weights(cells, system), rates.q),
        effective_per_epoch=effective_per_epoch(_weights(cells, system), rates.q),
    )


def _weights(cells: Cells, system: System) -> Floats:
    return system.p * cells.total


def _kept(cells: Cells, system: System, q: Floats, before: Floats, after: Floats) -> Kept:
    m = len(system.targets)
    columns = product_columns(cells.s[cells.pattern_starts[:-1]], cells.s_names, [t.factors for t in system.targets])
    any_known = np.repeat(~np.isnan(columns).all(axis=1), np.diff(cells.pattern_starts))
    share = float(system.p[any_known].sum())
    kept_known = float((system.p * q)[any_known].sum())
    total = float(system.p @ q)
    attributes = {}
    for k, target in enumerate(system.targets):
        known_before, known_after = before[m + k, 0], after[m + k, 0]
        attributes[target.name] = (_ratio(known_after, known_before), _ratio(total - known_after, 1 - known_before))
    return Kept(
        total,
        _ratio(kept_known, share),
        _ratio(total - kept_known, 1 - share),
        {name: _ratio(after[2 * m, r + 1], before[2 * m, r + 1]) for r, name in enumerate(cells.y_names)},
        attributes,
    )


def _ratio(part: float, whole: float) -> float:
    return float(part / whole) if whole > 1e-12 else float("nan")
