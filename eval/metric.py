"""One measured value, as every evaluator gives it and every file and page shows it."""

import contextlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


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
    """

    name: str
    value: float
    low: float | None = None
    high: float | None = None
    count: int | None = None
    prompts: str | None = None

    def row(self, **place: Any) -> dict[str, Any]:
        """A JSON-ready row: where the run stood (`step`, `epoch`, `samples`), then the metric."""
        optional = {"count": self.count, "prompts": self.prompts}
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


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Read `metrics.jsonl`; a last line that a killed run left unfinished is ignored."""
    rows = []
    with contextlib.suppress(FileNotFoundError), open(path, encoding="utf-8") as file:
        for line in file:
            with contextlib.suppress(ValueError):
                rows.append(json.loads(line))
    return rows
