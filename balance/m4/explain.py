"""Unmet constraints in words: which, by how much, and what would help, with numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from balance.m4.dual import HOLDS
from balance.m4.problem import Problem
from balance.m4.rates import Rates
from balance.m4.system import ASSOCIATION, FLOOR, REPRESENTATION, System

if TYPE_CHECKING:
    from balance.m4.plan import Plan

Floats = NDArray[np.float64]
LOWEST_ADVICE = 1e-3  # keep rates below this are no advice
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
    system: System, problem: Problem, rates: Rates, concepts: Sequence[str], before: Floats, after: Floats
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
    rates: Rates,
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


def explain(plan: Plan) -> list[str]:
    """A few sentences for each violation, and one for all of them together."""
    sentences = [_sentence(violation, plan) for violation in plan.violations]
    if any(not violation.set_aside for violation in plan.violations):
        rate = plan.attainable_rate
        if rate < LOWEST_ADVICE:
            sentences.append("At no keep rate could all of these hold together; keep='auto' sets aside what can not.")
        else:
            repeats = _ceil(plan.problem.max_repeat * plan.keep / rate)
            sentences.append(f"All would hold together at keep <= {_floor(rate)} or max_repeat >= {repeats}.")
    return sentences


def _sentence(violation: Violation, plan: Plan) -> str:
    if violation.kind == "floor":
        return (
            f"Concept {violation.concept!r} keeps {violation.reached:.3f} of its samples relative to the keep rate, "
            f"below its floor of {violation.wanted:g} by {violation.amount:.3f}: lower min_concept_kept for it or "
            "widen its tolerance."
        )
    if violation.kind == "association" and plan.problem.association == "joint":
        return (
            f"The moment of {violation.attribute!r} with {violation.concept!r} stays at {violation.reached:.4f}, "
            f"beyond its tolerance of {violation.tolerance:g} by {violation.amount:.4f} (price {violation.price:.3g}): "
            f"lower keep or widen eps_association to {violation.tolerance + violation.amount:.4f}."
        )
    where = f"Among samples with {violation.concept!r}" if violation.concept else "Over the whole data"
    setting = "eps_association" if violation.concept else "eps_representation"
    return (
        f"{where} the share of {violation.attribute!r} stays at {violation.reached:.3f}, wanted "
        f"{violation.wanted:.3f} ± {violation.tolerance:g}, beyond it by {violation.amount:.3f} "
        f"(price {violation.price:.3g}). {_remedy(violation, plan)}Or widen {setting} to "
        f"{_ceil(violation.tolerance + violation.amount)}."
    )


def _remedy(violation: Violation, plan: Plan) -> str:
    short = "without" if violation.sign > 0 else "with"
    side = f"samples {short} {violation.attribute!r}"
    if violation.keep_needed is None or violation.repeats_needed is None:
        if _has_short_side(violation, plan):
            return "Other constraints stand against it. "
        floor = ", and its floor forbids dropping the others" if violation.concept else ""
        return f"There are no {side} to make up for it{floor}: no keep rate helps. "
    if violation.keep_needed >= plan.keep:
        return "Alone it could hold at this keep rate; other constraints stand against it. "
    # Rounded to the side that is sure to hold.
    return (
        f"There are too few {side}: alone it would hold at keep <= {_floor(violation.keep_needed)} or "
        f"max_repeat >= {_ceil(violation.repeats_needed)}. "
    )


def _has_short_side(violation: Violation, plan: Plan) -> bool:
    """Whether any sample bears the concept on the side that is short."""
    k = plan.before.targets.index(str(violation.attribute))
    if violation.concept is None:
        share = plan.before.representation[k]
    else:
        share = plan.before.concept_share[k, plan.before.concepts.index(violation.concept)]
    return bool((share < 1 - 1e-12) if violation.sign > 0 else (share > 1e-12))


def _floor(value: float) -> str:
    return f"{np.floor(value * 1000) / 1000:.3f}" if value >= 0.001 else f"{value:.1e}"


def _ceil(value: float) -> str:
    return f"{np.ceil(value * 1000) / 1000:.3f}"


def constraint_costs(plan: Plan, top: int) -> list[tuple[str, float]]:
    """(label, saving) of the constraints whose tolerance costs most.

    The saving is -dP/d eps_j * 0.01 = 0.01 v_j (weight that the constraint speaks of): what a tolerance wider by 0.01
    would take off the cost, to first order.
    """
    m = len(plan.targets)
    index = {name: r for r, name in enumerate(plan.cells.y_names)}
    attribute = {target.name: k for k, target in enumerate(plan.targets)}
    savings = []
    for label, price in zip(plan.labels, plan.v.tolist(), strict=True):
        if price <= 0:
            continue
        head, _, concept = label.partition("|")
        r = index[concept] + 1 if concept else 0
        row = 2 * m if head == "floor" else m + attribute[head[:-1]]
        scale = plan.keep * plan.moments_before[2 * m, r] if head == "floor" else plan.moments_after[row, r]
        savings.append((label, 0.01 * price * float(scale)))
    return sorted(savings, key=lambda item: -item[1])[:top]
