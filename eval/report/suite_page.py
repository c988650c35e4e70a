"""The page of one model's suite: what was measured, what each figure means, and how sure it is."""

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from eval.report.charts import forest_chart
from eval.report.page import render_page
from eval.report.sets_table import sets_rows

Row = dict[str, Any]
FEWEST, MOST = 3, 40  # members of a family that make a chart

# What each kind measures and how its figures are read.
READING = {
    "parity": (
        "Whom the model sees in pictures that show no such person: the mean difference of the probabilities of "
        "two groups' prompts. 0 is none, ±1 the most; the share form is how far the share of pictures that prefer"
        " the first group lies from ½."
    ),
    "association": (
        "Which occupations the model gives to labelled faces of one group rather than the other: differences of "
        "mean probability. 0 is none. The largest of several absolute differences lies above 0 by chance alone."
    ),
    "eat": (
        "How much nearer one group of stimuli lies to one attribute than another group does: effect sizes d in "
        "standard deviations (0.2 is called small, 0.5 medium, 0.8 large), with one-sided permutation p-values."
    ),
    "impressions": (
        "Whether the model has learned which traits people read into faces: rank correlation with human ratings, "
        "attribute by attribute, and whether it is higher where people agree."
    ),
    "hypodescent": (
        "Whether faces between two races are named by the minority: the share so named at each mixing step. "
        "Without such a rule the curve crosses one half in the middle."
    ),
    "retrieval_bias": (
        "Who comes first when faces are ranked by a description that no face can answer. Both measures lie above "
        "0 by construction: read them against what random rankings give."
    ),
    "zeroshot": (
        "Quality: how often the class whose prompts lie nearest is the right one. Compare with 1 / number of classes."
    ),
    "retrieval": "Quality: how often a match is among the first k. Compare with k / number of candidates.",
}


@dataclass
class Section:
    """What one evaluator gave.

    Attributes:
        name: of the evaluator.
        kind: of the evaluator.
        reading: how its figures are read.
        rows: its metrics, `metric` being the name without the evaluator's.
        charts: SVG fragments of families of metrics.
        pages: title -> fragment that the evaluator drew.
    """

    name: str
    kind: str
    reading: str
    rows: list[Row] = field(default_factory=list)
    charts: list[str] = field(default_factory=list)
    pages: dict[str, str] = field(default_factory=dict)

    @property
    def tables(self) -> list[tuple[str, str]]:
        """The fragments that need the page's whole width."""
        return [(title, page) for title, page in self.pages.items() if "<table" in page]

    @property
    def drawn(self) -> list[tuple[str, str]]:
        """The other fragments, which stand side by side."""
        return [(title, page) for title, page in self.pages.items() if "<table" not in page]


def render_suite(facts: Mapping[str, Any], rows: Sequence[Row], pages: Mapping[str, Mapping[str, str]]) -> str:
    """The page as HTML.

    Args:
        facts: of the measurement: model, suite, sets, headline, what was left out.
        rows: metrics as rows, each with its `evaluator`.
        pages: evaluator -> title -> HTML or SVG fragment.
    """
    return render_page(
        "suite.html",
        facts=facts,
        headline=_headline(facts, rows),
        sets=sets_rows(_sets(facts)),
        remarks=_remarks(facts),
        sections=_sections(facts, rows, pages),
        total=facts["seconds"]["all"],
    )


def _sets(facts: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    left_out = facts.get("left_out") or {}
    return {name: {"images": images, "left_out": left_out.get(name, {})} for name, images in facts["sets"].items()}


def _remarks(facts: Mapping[str, Any]) -> list[str]:
    """What can't be measured, differs from what was published, or was cut, a sentence each."""
    remarks, cut = list(facts["skipped"]), facts["truncated"]
    if cut:
        some = "; ".join(f"“{text[:80]}{'…' if len(text) > 80 else ''}”" for text in cut[:3])
        more = "; and more" if len(cut) > 3 else ""
        remarks.append(f"The tokenizer cut {len(cut)} text(s), so that their ends count for nothing: {some}{more}.")
    return remarks


def _headline(facts: Mapping[str, Any], rows: Sequence[Row]) -> list[tuple[str, Row]]:
    by_name = {row["name"]: row for row in rows}
    return [(label, by_name[name]) for label, name in (facts.get("headline") or {}).items() if name in by_name]


def _sections(facts: Mapping[str, Any], rows: Sequence[Row], pages: Mapping[str, Mapping[str, str]]) -> list[Section]:
    sections = []
    for name, kind in facts["kinds"].items():
        own = [{**row, "metric": row["name"].partition("/")[2]} for row in rows if row["evaluator"] == name]
        section = Section(name, str(kind), READING.get(str(kind), ""), own, pages=dict(pages.get(name, {})))
        if not section.pages:  # an evaluator that draws knows better what belongs together
            section.charts = [_chart(f"{name}: {title}", members) for title, members in families(own).items()]
        sections.append(section)
    return sections


def families(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Metrics that differ only in what stands in brackets, which belong into one chart; those of p-values do not."""
    found: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        match = re.fullmatch(r"([^\[]+)\[(.+)\](.*)", row["metric"])
        if match and match[1] not in ("p", "p_value"):
            found[match[1] + match[3]].append({**row, "member": match[2]})
    return {family: members for family, members in found.items() if len(members) >= FEWEST}


def _chart(title: str, members: list[Row]) -> str:
    """A dot and an interval for each member, the largest first; of many, those farthest from zero."""
    if len(members) > MOST:
        members = sorted(members, key=lambda row: -abs(row["value"]))[:MOST]
        title += f" (the {MOST} farthest from 0)"
    members = sorted(members, key=lambda row: -row["value"])
    signed = any(row["value"] < 0 or (row["low"] or 0) < 0 for row in members)
    return forest_chart(title, [row["member"] for row in members], [("", members)], "value, 95 % interval", zero=signed)
