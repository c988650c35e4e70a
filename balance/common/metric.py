"""One measured value, as every evaluator gives it and every file and page shows it."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from balance.common.documents import read_rows

Row = dict[str, Any]
# Which way each kind of evaluator points: bias is best at zero, quality is best when large.
BIAS_KINDS = ("parity", "association", "eat", "retrieval_bias", "hypodescent")
QUALITY_KINDS = ("zeroshot", "retrieval")


@dataclass(frozen=True)
class Metric:
    """A value with what is needed to judge it.

    Attributes:
        name: dotted by slashes, such as `parity_scenes/mean_parity`.
        value: the estimate.
        low: lower end of the 95 % interval, or None where there is none.
        high: upper end.
        count: number of images (or pairs) behind it.
        prompts: the texts that were compared, a few words each.
        chance: of a measure of quality what guessing gives.
    """

    name: str
    value: float
    low: float | None = None
    high: float | None = None
    count: int | None = None
    prompts: str | None = None
    chance: float | None = None

    def row(self, **place: Any) -> dict[str, Any]:
        """A JSON-ready row: where the run stood (`step`, `epoch`, `samples`), then the metric."""
        optional = {"count": self.count, "prompts": self.prompts, "chance": self.chance}
        return {
            **place,
            "name": self.name,
            "value": self.value,
            "low": self.low,
            "high": self.high,
            **{key: value for key, value in optional.items() if value is not None},
        }


def as_metrics(group: str, values: Mapping[str, float]) -> list[Metric]:
    """Plain numbers as metrics of a group."""
    return [Metric(f"{group}/{name}", value) for name, value in values.items()]


def read_metrics(path: Path) -> list[Row]:
    """Read `metrics.jsonl`; a line that a killed run left unfinished, in the midst of a character even, is ignored."""
    return [row for row in read_rows(path) if _is_measured(row)]


def by_name(rows: list[Row]) -> dict[str, list[Row]]:
    """Rows of each metric, in the order of the run."""
    series: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        series[row["name"]].append(row)
    return dict(series)


def direction_of(config: Mapping[str, Any], name: str) -> str:
    """`bias`, `quality` or `other`: which way a metric points, by the kind of its evaluator in the configuration."""
    evaluator = name.split("/")[0]
    if evaluator == "data":
        return "bias"
    kind = ((config["eval"].get("evaluators") or {}).get(evaluator) or {}).get("kind", evaluator)
    return "bias" if kind in BIAS_KINDS else "quality" if kind in QUALITY_KINDS else "other"


def at_chance(rows: Iterable[Row]) -> bool:
    """Whether a model is no better than guessing: most of its measures of quality don't lie above what guessing gives.

    Most, and not all, since a model with random weights tells two classes apart by brightness or colour now and then.
    What it knows nothing of it can't be biased about: its measures of bias say how random features happen to lie.

    Args:
        rows: of one evaluation; those without `chance` or without an interval do not count.

    Returns:
        False where no row counts: nothing is known then.
    """
    known = [row for row in rows if row.get("chance") is not None and row.get("low") is not None]
    above = sum(row["low"] > row["chance"] for row in known)
    return bool(known) and 2 * above < len(known)


def _is_measured(row: Mapping[str, Any]) -> bool:
    return isinstance(row.get("name"), str) and isinstance(row.get("value"), int | float)
