"""The page of an audit: one HTML file, nothing outside it."""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from balance.audit import DataBias
from balance.changes import Change
from balance.files import write_whole
from balance.intersections import Intersection
from balance.intervals import Estimates
from balance.m4.cells import Cells
from balance.m4.explain import constraint_costs, explain
from balance.m4.plan import Plan
from eval.report.page import render_page
from scripts.audit_charts import Floats, bar_chart, heat_map, heat_map_rows, interval_chart, rate_chart

FEW = 10
"""Known samples below which a concept is left out of the charts; the tables have all."""


def write_page(
    path: Path,
    title: str,
    before: DataBias,
    after: DataBias | None,
    plan: Plan | None,
    rates: Floats | None,
    cells: Cells,
    combined: Sequence[Intersection],
    top: int,
    faults: Sequence[str] = (),
) -> Path:
    """Write the page of one data set, before and after a plan where there is one; `faults` are those of its shards."""
    charts = [_heat_map(before, "before" if after else "", top)]
    if after is not None:
        charts.append(_heat_map(after, "after", top, heat_map_rows(before, top)))
    series = [("before", before)] + ([("after", after)] if after is not None else [])
    charts.append(_associations(series, top))
    charts += [_shares_in_concepts(series, k, top) for k in np.argsort(~before.wanted, kind="stable")]
    plan_charts = [] if plan is None or rates is None or after is None else _plan_charts(plan, rates, after, cells, top)
    return _render(
        path,
        title=title,
        before=before,
        after=after,
        cards=_cards(before, after, plan),
        notes=[*faults, *([] if plan is None else explain(plan))],
        charts=[chart for chart in charts if chart],
        plan_charts=plan_charts,
        attributes=_attribute_rows(before, after),
        associations=_association_rows(before, after, 4 * top),
        combined=combined[:top],
        changes=[],
    )


def write_comparison(
    path: Path,
    names: Sequence[str],
    a: DataBias,
    b: DataBias,
    changes: Sequence[Change],
    top: int,
    faults: Sequence[str] = (),
) -> Path:
    """Write the page that compares two data sets."""
    shown = [one for one in changes if one.what == "share in concept"][:top]
    charts = []
    if shown:
        values = [_picked(bias, shown) for bias in (a, b)]
        rows = [f"{one.concept} · {one.attribute}" for one in shown]
        places = [(i,) for i in range(len(shown))]
        title = "Share of the attribute inside concepts: the surest differences"
        series = [(names[0], values[0]), (names[1], values[1])]
        charts.append(interval_chart(title, rows, series, places, "share", None))
    cards = []
    for label, key in (("RB", "rb"), ("AB", "ab"), ("AB over proxies", "ab_proxies")):
        one, two = getattr(a, key), getattr(b, key)
        if np.isfinite(one.value[0]) and np.isfinite(two.value[0]):
            cards.append((label, f"{one.value[0]:.3f} → {two.value[0]:.3f}", f"{_ends(one)} → {_ends(two)}"))
    cards.append(("samples", f"{a.samples:,.0f} → {b.samples:,.0f}", ""))
    return _render(
        path,
        title=f"{names[0]} and {names[1]}",
        before=a,
        after=None,
        cards=cards,
        notes=list(faults),
        charts=charts,
        plan_charts=[],
        attributes=[],
        associations=[],
        combined=[],
        changes=list(changes[: 4 * top]),
    )


def _picked(bias: DataBias, changes: Sequence[Change]) -> Estimates:
    """One data set's shares in concepts, in the order of the changes."""
    k = [bias.s_names.index(one.attribute) for one in changes]
    r = [bias.y_names.index(one.concept) for one in changes]
    share = bias.concept_share
    return Estimates(share.value[k, r], share.low[k, r], share.high[k, r], share.error[k, r])


def _ends(one: Estimates) -> str:
    return f"[{one.low[0]:.3f}, {one.high[0]:.3f}]"


def _cards(before: DataBias, after: DataBias | None, plan: Plan | None) -> list[tuple[str, str, str]]:
    """(label, figure, small print)."""
    cards = []
    for label, key in (("RB", "rb"), ("AB", "ab"), ("AB over proxies", "ab_proxies")):
        one = getattr(before, key)
        if not np.isfinite(one.value[0]):
            continue
        figure, small = f"{one.value[0]:.3f}", _ends(one)
        if after is not None:
            two = getattr(after, key)
            figure, small = f"{figure} → {two.value[0]:.3f}", f"{small} → {_ends(two)}"
        cards.append((label, figure, small))
    cards.append(("AB by chance alone stays below", f"{before.ab_chance:.3f}", f"in {before.level:.0%} of cases"))
    effective = "" if after is None else f"effective after the plan: {after.effective:,.0f}"
    cards.append(("samples", f"{before.samples:,.0f}", effective))
    if plan is not None:
        cards.append(("keep rate", f"{plan.kept.all:.3f}", f"known attributes: {plan.kept.known:.3f}"))
        if plan.kept.smallest is not None:
            cards.append(("loses most", plan.kept.smallest[0], f"mean rate {plan.kept.smallest[1]:.3f}"))
        cards.append(("gap of the plan", f"{plan.gap:.1e}", "relative, certified"))
    return cards


def _heat_map(bias: DataBias, suffix: str, top: int, rows: list[int] | None = None) -> str:
    rows = heat_map_rows(bias, top) if rows is None else rows
    if not rows:
        return ""
    gap = (bias.concept_share.value - bias.pi[:, None])[:, rows].T
    title = f"Gap from the wanted (or usual) share inside each concept{', ' if suffix else ''}{suffix}"
    return heat_map(title, [bias.y_names[r] for r in rows], bias.s_names, gap, bias.known_count[:, rows].T)


def _shares_in_concepts(series: Sequence[tuple[str, DataBias]], k: int, top: int) -> str:
    before = series[0][1]
    gap = np.abs(before.concept_share.value[k] - before.pi[k])
    gap[before.known_count[k] < FEW] = np.nan
    rows = [int(r) for r in np.argsort(-np.nan_to_num(gap, nan=-1.0), kind="stable")[:top] if np.isfinite(gap[r])]
    if not rows:
        return ""
    share = before.concept_share
    if not any(share.low[k, r] > before.pi[k] or share.high[k, r] < before.pi[k] for r in rows):
        return ""  # nothing to be seen
    rows.sort(key=lambda r: -share.value[k, r])
    names = [f"{before.y_names[r]} ({before.known_count[k, r]:,.0f})" for r in rows]
    title = f"Share of {before.s_names[k]} inside each concept (known samples)"
    parts = [(label, bias.concept_share) for label, bias in series]
    return interval_chart(title, names, parts, [(k, r) for r in rows], "share", float(before.pi[k]))


def _associations(series: Sequence[tuple[str, DataBias]], top: int) -> str:
    before = series[0][1]
    places = [(k, r) for k, r in before.order() if before.known_count[k, r] >= FEW][:top]
    if not places:
        return ""
    names = [f"{before.y_names[r]} · {before.s_names[k]}" for k, r in places]
    parts = [(label, bias.association) for label, bias in series]
    title = "Largest associations: P(concept | with) − P(concept | without)"
    return interval_chart(title, names, parts, places, "difference", 0.0)


def _plan_charts(plan: Plan, rates: Floats, after: DataBias, cells: Cells, top: int) -> list[str]:
    known = ~np.isnan(cells.s).all(axis=1)
    charts = [rate_chart("Rates that the plan gives", rates, cells.counts, known)]
    kept = [(name, float(rate)) for name, rate in zip(after.y_names, after.concept_rate, strict=True)]
    kept = sorted((row for row in kept if np.isfinite(row[1])), key=lambda row: row[1])[:top]
    if kept:
        charts.append(bar_chart("Concepts that lose most", kept, "mean rate", plan.kept.all))
    costs = [row for row in constraint_costs(plan, top) if row[1] > 0]
    if costs:
        charts.append(bar_chart("Constraints that cost most", costs, "saved by 0.01 more tolerance"))
    return charts


def _attribute_rows(before: DataBias, after: DataBias | None) -> list[dict[str, Any]]:
    return [
        {
            "name": name,
            "target": before.pi[k] if before.wanted[k] else None,
            "unknown": before.unknown[k],
            "before": _cell(before.representation, (k,)),
            "after": None if after is None else _cell(after.representation, (k,)),
        }
        for k, name in enumerate(before.s_names)
    ]


def _association_rows(before: DataBias, after: DataBias | None, most: int) -> list[dict[str, Any]]:
    return [
        {
            "attribute": before.s_names[k],
            "concept": before.y_names[r],
            "proxy": bool(before.proxies[r]),
            "count": before.known_count[k, r],
            "association": _cell(before.association, (k, r)),
            "p": before.p_adjusted[k, r],
            "share": _cell(before.concept_share, (k, r)),
            "share_after": None if after is None else _cell(after.concept_share, (k, r)),
            "association_after": None if after is None else _cell(after.association, (k, r)),
        }
        for k, r in before.order()[:most]
    ]


def _cell(one: Estimates, place: tuple[int, ...]) -> str:
    if not np.isfinite(one.value[place]):
        return "–"
    return f"{one.value[place]:.3f} [{one.low[place]:.3f}, {one.high[place]:.3f}]"


def _render(path: Path, **values: Any) -> Path:
    return write_whole(path, render_page("audit.html", written=f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC", **values))
