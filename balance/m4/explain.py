"""A plan in words: what does not hold and what would help, with numbers; and what the tolerances cost."""

from __future__ import annotations

import numpy as np

from balance.m4.plan import Plan
from balance.m4.violations import Violation

LOWEST_ADVICE = 1e-3  # keep rates below this are no advice


def explain(plan: Plan) -> list[str]:
    """What does not hold, by how much, and what would help; empty where all holds and the plan is certified."""
    sentences = [_sentence(violation, plan) for violation in plan.violations]
    if any(not violation.set_aside for violation in plan.violations):
        rate = plan.attainable_rate
        if rate < LOWEST_ADVICE:
            sentences.append("At no keep rate could all of these hold together; keep='auto' sets aside what can not.")
        else:
            repeats = _ceil(plan.problem.max_repeat * plan.keep / rate)
            sentences.append(f"All would hold together at keep <= {_floor(rate)} or max_repeat >= {repeats}.")
    if not plan.gap <= plan.wanted_gap and plan.method != "stochastic":
        sentences.append(
            f"The plan is not certified: its relative gap is {plan.gap:.1e}, more than {plan.wanted_gap:.1e}; "
            "the rates are still feasible, and cost at most that share more than the best ones."
        )
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


def constraint_costs(plan: Plan, top: int = 10) -> list[tuple[str, float]]:
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
