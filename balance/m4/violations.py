"""Constraints that do not hold: by how much, at what price, and what alone would make them hold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from balance.m4.dual import HOLDS
from balance.m4.problem import Problem
from balance.m4.solution import Solution
from balance.m4.system import ASSOCIATION, FLOOR, REPRESENTATION, System

Floats = NDArray[np.float64]
KINDS = {REPRESENTATION: "representation", ASSOCIATION: "association", FLOOR: "floor"}


@dataclass(frozen=True)
class Violation:
    """A constraint that does not hold.

    Attributes:
        label: its name, as in `Plan.labels`.
        kind: "representation", "association" or "floor".
        attribute: the balanced column, or None for floors.
        concept: the concept, or None for representation.
        sign: +1 where the share is too high, -1 where it is too low.
        reached: the share (floors: the kept share relative to the keep rate) after balancing; for the joint form the
            moment abs(E_q[(s - pi) y]).
        wanted: pi (floors: rho; joint form: 0).
        tolerance: eps (floors: 0).
        amount: how far `reached` is beyond `wanted` and `tolerance`, above 0.
        price: v_j, at its top V_j where nothing at this price could make it hold.
        set_aside: whether `keep="auto"` found that it cannot hold at any rate it may choose.
        keep_needed: largest keep rate at which it would hold if it stood alone, None where there is none.
        repeats_needed: smallest max_repeat at which it would hold at this keep rate if it stood alone, or None.
    """

    label: str
    kind: str
    attribute: str | None
    concept: str | None
    sign: int
    reached: float
    wanted: float
    tolerance: float
    amount: float
    price: float
    set_aside: bool
    keep_needed: float | None = None
    repeats_needed: float | None = None


def find_violations(
    system: System, problem: Problem, rates: Solution, concepts: Sequence[str], before: Floats, after: Floats
) -> list[Violation]:
    """The constraints that the rates break beyond rounding, the largest amount first.

    Args:
        system: constraints and cells.
        problem: what was asked.
        rates: what was found.
        concepts: names of the concepts.
        before: (F, N) moments of p.
        after: (F, N) moments of p q.
    """
    moments = system.moments(system.p * rates.q) / rates.keep
    broken = np.flatnonzero(moments / np.maximum(system.mass, 1e-300) > 10 * HOLDS)
    labels = system.labels(concepts)
    found = [_violation(int(j), labels[j], system, problem, rates, concepts, before, after) for j in broken]
    return sorted(found, key=lambda violation: -violation.amount)


def _violation(
    j: int,
    label: str,
    system: System,
    problem: Problem,
    rates: Solution,
    concepts: Sequence[str],
    before: Floats,
    after: Floats,
) -> Violation:
    kind, k, r = int(system.kind[j]), int(system.attribute[j]), int(system.concept[j])
    m, sign, eps = len(system.targets), int(system.sign[j]), float(system.eps[j])
    concept = concepts[r] if r >= 0 else None
    common = (float(rates.v[j]), bool(rates.set_aside[j]))
    if kind == FLOOR:
        reached = float(after[2 * m, r + 1] / (rates.keep * before[2 * m, r + 1]))
        return Violation(label, KINDS[kind], None, concept, sign, reached, eps, 0.0, eps - reached, *common)
    target = system.targets[k]
    if kind == ASSOCIATION and problem.association == "joint":
        reached = abs(float(after[k, r + 1] / after[m + k, 0]))
        return Violation(label, KINDS[kind], target.name, concept, sign, reached, 0.0, eps, reached - eps, *common)
    known = float(after[m + k, r + 1])
    reached = target.pi + float(after[k, r + 1]) / known if known > 0 else float("nan")
    amount = sign * (reached - target.pi) - eps
    keep_needed, repeats_needed = _alone(j, system, problem, rates.keep, before)
    return Violation(
        label, KINDS[kind], target.name, concept, sign, reached, target.pi, eps, amount, *common,
        keep_needed, repeats_needed,
    )  # fmt: skip


def _alone(j: int, system: System, problem: Problem, keep: float, before: Floats) -> tuple[float | None, float | None]:
    """Keep rate and repeats at which one share constraint and its floor could hold without the others.

    The side that is short weighs `side` in the data and may be used Q times, so the known samples may weigh at most
    Q side / share, and the unknown ones add Q unknown; together they must carry the floor (or the keep rate).
    """
    k, r, m = int(system.attribute[j]), int(system.concept[j]), len(system.targets)
    target, sign, eps = system.targets[k], float(system.sign[j]), float(system.eps[j])
    known = float(before[m + k, r + 1])
    ones = float(before[k, r + 1]) + target.pi * known
    side, share = (known - ones, 1 - target.pi - eps) if sign > 0 else (ones, target.pi - eps)
    unknown = float(before[2 * m, r + 1]) - known
    rho = float(system.eps[(system.kind == FLOOR) & (system.concept == r)].sum())  # one floor a concept, or none
    needed = 1.0 if r < 0 else rho * float(before[2 * m, r + 1])
    carried = (side / share if share > 0 else np.inf) + unknown
    if needed <= 0 or carried <= 1e-15 or not np.isfinite(carried):
        return None, None
    return problem.max_repeat * carried / needed, keep * needed / carried
