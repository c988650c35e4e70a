"""The tables of a run's report and of a comparison of runs."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from balance.common.metric import Row
from eval.report.run_charts import label_of
from eval.report.rundata import RunData

BETTER, WORSE, NOT_COMPARABLE, ONE_SEED = "better", "worse", "not comparable", "one seed"
LENGTHS = ("samples", "steps", "samples of an epoch")


def headline_table(runs: Sequence[RunData]) -> list[dict[str, Any]]:
    """The metrics of the summary: a row each, with the first run's value before training and every run's last value.

    With a second run each row says how the first differs from it: `change`, and `verdict`: better, worse, or within
    intervals. Sizes are compared for bias, values for quality; intervals that do not overlap make a difference, between
    two runs one of this seed alone. Bias is not comparable where a side of the comparison is at chance.
    """
    found, seed = [], f" ({ONE_SEED})" if len(runs) > 1 else ""
    chance = runs[0].ends_at_chance() or (runs[1].ends_at_chance() if len(runs) > 1 else runs[0].start_at_chance())
    for label, name in runs[0].headline.items():
        direction = runs[0].direction(name)
        values = [run.last(name) for run in runs]
        row: dict[str, Any] = {
            "label": label,
            "name": name,
            "direction": direction,
            "start": runs[0].first(name),
            "values": values,
            "change": None,
            "verdict": "",
        }
        reference = values[1] if len(runs) > 1 else row["start"]
        if reference is not None and values[0] is not None:
            row["change"] = values[0]["value"] - reference["value"]
            told = verdict(values[0], reference, direction)
            row["verdict"] = told + seed if told in (BETTER, WORSE) else told
            if chance and direction == "bias":
                row["verdict"] = NOT_COMPARABLE
        found.append(row)
    return sorted(found, key=lambda row: ("bias", "quality", "other").index(row["direction"]))


def no_baseline(runs: Sequence[RunData]) -> str:
    """A sentence where bias is not judged, since a model of the comparison is no better than guessing; else empty."""
    at = [run.name for run in runs[:2] if run.ends_at_chance()]
    if at:
        one = len(at) == 1
        return (
            f"The quality of {' and '.join(at)} is at chance, so that {'its' if one else 'their'} bias is not judged: "
            "a model that tells nothing apart has none to speak of."
        )
    if len(runs) == 1 and runs[0].start_at_chance():
        return (
            "Before training the model was at chance, which is no baseline for bias: compare with a control run "
            "(`balance=none`, equally many samples), or start from trained weights."
        )
    return ""


def unequal_length(runs: Sequence[RunData]) -> str:
    """A sentence where runs saw other numbers of samples, took other numbers of steps, or have others to an epoch.

    Such runs differ in more than what they are compared for.
    """
    lengths = [_length(run) for run in runs]
    differ = [what for what, *values in zip(LENGTHS, *lengths, strict=True) if len(set(values)) > 1]
    if not differ:
        return ""
    each = "; ".join(
        f"{run.name}: {', '.join(f'{values[LENGTHS.index(what)]:,} {what}' for what in differ)}"
        for run, values in zip(runs, lengths, strict=True)
    )
    return f"The runs differ in {' and '.join(differ)}, which may explain other differences. {each}."


def _length(run: RunData) -> tuple[int, int, int]:
    """(samples, steps, samples of an epoch) at the last row of a run."""
    last = max(
        (rows[-1] for rows in run.series.values()), key=lambda row: int(row["step"]), default={"samples": 0, "step": 0}
    )
    rows = [row for rows in run.series.values() for row in rows]
    ends = [row for row in rows if row.get("epoch") and row["epoch"] == int(row["epoch"])]
    end = max(ends, key=lambda row: float(row["epoch"]), default={"samples": 0, "epoch": 1})
    return int(last["samples"]), int(last["step"]), int(end["samples"] / end["epoch"])


def verdict(one: Row, other: Row, direction: str) -> str:
    """Whether a value is better or worse than another, beyond their intervals."""
    if one["low"] is None or other["low"] is None or direction == "other":
        return ""
    if one["low"] <= other["high"] and other["low"] <= one["high"]:
        return "within intervals"
    if direction == "bias":
        return BETTER if abs(one["value"]) < abs(other["value"]) else WORSE
    return BETTER if one["value"] > other["value"] else WORSE


def answer(runs: Sequence[RunData], table: Sequence[dict[str, Any]]) -> str:
    """What balancing did, in two or three sentences."""
    run, sentences = runs[0], []
    moments = {row["name"].split(":")[0]: row for row in run.data.get("rows", [])}
    parts = [
        f"{short} of the data from {moments[short]['before']:.3f} to {moments[short]['after']:.3f}"
        for short in ("RB", "AB")
        if short in moments and moments[short]["before"] is not None
    ]
    if run.treatment == "not balanced":
        sentences.append("This run was not balanced.")
    elif parts:
        sentences.append(f"Balancing takes {' and '.join(parts)}.")
    reference = runs[1].name if len(runs) > 1 else "the model before training"
    differ = False
    for direction, noun in (("bias", "bias"), ("quality", "quality")):
        judged = [row["verdict"] for row in table if row["direction"] == direction and row["verdict"]]
        judged = [one for one in judged if one != NOT_COMPARABLE]
        if judged:
            better, worse = (sum(one.startswith(what) for one in judged) for what in (BETTER, WORSE))
            sentences.append(
                f"Against {reference}, of {len(judged)} measures of {noun} {_are(better)} better and {_are(worse)} "
                "worse beyond their intervals."
            )
            differ |= better + worse > 0
    if no_baseline(runs):
        sentences.append(no_baseline(runs))
    if len(runs) > 1 and differ:
        sentences.append(one_seed_note())
    return " ".join(sentences)


def one_seed_note() -> str:
    """What a difference between two runs is worth."""
    return (
        "Intervals are over images: they don't know how much another seed would change. Two runs show a difference of "
        "one seed, which is no result yet; train both with several seeds, and compare all by scripts/compare.py."
    )


def _are(number: int) -> str:
    return f"{number} {'is' if number == 1 else 'are'}"


def concept_table(runs: Sequence[RunData]) -> dict[str, Any]:
    """For each attribute and concept: its share in the data before and after, and what models say of it.

    Returns:
        `columns`, names of the model's metrics (run and metric), and `rows`: `attribute`, `concept`, `before`, `after`
        and `values`, a metric's last row or None for each column.
    """
    data = runs[0].data.get("inside", [])
    concepts = {row["concept"] for attribute in data for row in attribute["rows"]}
    by_family: dict[tuple[str, str], dict[str, Row]] = defaultdict(dict)
    for run in runs:
        for name, measured in run.evaluated().items():
            if "[" in name:
                family = name.split("[")[0].replace("_", " ")
                by_family[run.name if len(runs) > 1 else "", family][label_of(name)] = measured[-1]
    wanted = {key: found for key, found in by_family.items() if not concepts or concepts & set(found)}
    rows: list[dict[str, Any]] = []
    for attribute in data:
        for row in attribute["rows"]:
            values = [found.get(row["concept"]) for found in wanted.values()]
            rows.append({**row, "attribute": attribute["attribute"], "values": values})
    known = {row["concept"] for row in rows}
    for concept in sorted({concept for found in wanted.values() for concept in found} - known):
        values = [found.get(concept) for found in wanted.values()]
        rows.append({"attribute": "", "concept": concept, "before": None, "after": None, "values": values})
    columns = [f"{name}: {family}" if name else family for name, family in wanted]
    return {"columns": columns, "rows": rows}


def all_metrics(runs: Sequence[RunData]) -> list[dict[str, Any]]:
    """The last value of each evaluated metric of every run, with the first run's value before training."""
    names = list(dict.fromkeys(name for run in runs for name in run.evaluated()))
    return [{"name": name, "start": runs[0].first(name), "values": [run.last(name) for run in runs]} for name in names]
