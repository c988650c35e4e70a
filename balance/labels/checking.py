"""What judgements of labels say: precision, recall and confusion, with intervals.

The labels of an attribute split the samples into strata (each value, and unknown), of which equally many are read
(`drawing.py`). A share of all samples is then the mean over strata with their sizes as weights.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from balance.intervals import wilson

Floats = NDArray[np.float64]

UNKNOWN, NONE, CONCEPT = "unknown", "none", "concept"
"""The label of a sample that has none; the truth where there is nobody of any value; the attribute of concepts."""
POOR = 0.8
"""Precision below which labels are too poor to balance on: as many samples then speak against a target as chance
leaves room for."""
_DRAWS = 2000


def attribute_values(s_names: Sequence[str]) -> dict[str, list[str]]:
    """The values of each attribute by the names of its columns: `woman` has `woman` and `not woman`."""
    values: dict[str, list[str]] = {}
    for name in s_names:
        attribute, one_hot, value = name.partition("=")
        values.setdefault(attribute, []).extend([value] if one_hot else [name, f"not {name}"])
    return values


@dataclass(frozen=True)
class Share:
    """A share with its interval, of so many judged rows."""

    value: float
    low: float
    high: float
    judged: int

    def to_list(self) -> list[float]:
        """As plain data."""
        return [self.value, self.low, self.high, self.judged]

    def __str__(self) -> str:
        return f"{self.value:.2f} [{self.low:.2f}, {self.high:.2f}] of {self.judged}"


@dataclass(frozen=True)
class Judged:
    """What judgements say of an attribute's labels.

    Attributes:
        values: its values.
        precision: by value, how often the label is right where it is given.
        recall: by value, how often it is given where it would be right.
        known: how often a known label is right, whatever it says.
        confusion: by truth (values and `none`), then by label (values and `unknown`): share of all samples.
        shares: by value, its share among samples of known truth.
    """

    values: tuple[str, ...]
    precision: dict[str, Share]
    recall: dict[str, Share]
    known: Share
    confusion: dict[str, dict[str, float]]
    shares: dict[str, Share]

    def to_dict(self) -> dict[str, Any]:
        """As plain data."""
        of = {name: {key: share.to_list() for key, share in getattr(self, name).items()} for name in
              ("precision", "recall", "shares")}  # fmt: skip
        return {"values": list(self.values), **of, "known": self.known.to_list(), "confusion": self.confusion}


def judge(
    values: Sequence[str],
    sizes: Mapping[str, int],
    counts: Mapping[str, Mapping[str, int]],
    level: float = 0.95,
    seed: int = 0,
) -> Judged:
    """Precision, recall and confusion of an attribute's labels.

    Precision has Wilson's interval. What mixes strata (recall, shares, the precision of all known labels) has that of
    a bootstrap within strata, smoothed by half a row of each kind so that strata read without a fault stay uncertain.

    Args:
        values: v values of the attribute.
        sizes: samples by label, `unknown` among them.
        counts: judged rows by label, then by truth, a value or `none`.
        level: of the intervals.
        seed: of the bootstrap.
    """
    labels, truths = [*values, UNKNOWN], [*values, NONE]
    table = np.array([[counts.get(label, {}).get(truth, 0) for truth in truths] for label in labels], float)
    weight = np.array([sizes.get(label, 0) for label in labels], float)
    judged = table.sum(axis=1)
    share = np.divide(table, judged[:, None], out=np.zeros_like(table), where=judged[:, None] > 0)
    weight = np.where(judged > 0, weight, 0.0)
    rng = np.random.default_rng(seed)
    draws = np.stack([_resampled(row, rng) for row in table])  # (labels, draws, truths)
    precision = {value: _share(table[k, k], judged[k], level) for k, value in enumerate(values)}

    def mixed(of: Any, n: float) -> Share:
        value, spread = of(share * weight[:, None]), of(np.moveaxis(draws, 0, -2) * weight[:, None])
        spread = spread[np.isfinite(spread)]
        low, high = np.quantile(spread, [(1 - level) / 2, (1 + level) / 2]) if len(spread) else (np.nan, np.nan)
        return Share(float(value), float(min(low, value)), float(max(high, value)), int(n))

    n_values = len(values)
    recall = {v: mixed(_Recall(k), judged.sum()) for k, v in enumerate(values)}
    shares = {v: mixed(_Within(k, n_values), judged.sum()) for k, v in enumerate(values)}
    known = mixed(_Right(n_values), judged[:n_values].sum())
    total = max(weight.sum(), 1.0)
    mass = share * weight[:, None] / total
    confusion = {t: dict(zip(labels, map(float, mass[:, j]), strict=True)) for j, t in enumerate(truths)}
    return Judged(tuple(values), precision, recall, known, confusion, shares)


def _resampled(row: Floats, rng: np.random.Generator) -> Floats:
    """(draws, truths) shares of one stratum under its posterior (Jeffreys); zeros where nothing was judged."""
    if not row.sum():
        return np.zeros((_DRAWS, len(row)))
    return rng.dirichlet(row + 0.5, _DRAWS)


@dataclass(frozen=True)
class _Recall:
    k: int

    def __call__(self, mass: Floats) -> Any:
        with np.errstate(invalid="ignore", divide="ignore"):
            return mass[..., self.k, self.k] / mass[..., :, self.k].sum(axis=-1)


@dataclass(frozen=True)
class _Within:
    k: int
    n_values: int

    def __call__(self, mass: Floats) -> Any:
        with np.errstate(invalid="ignore", divide="ignore"):
            return mass[..., :, self.k].sum(axis=-1) / mass[..., :, : self.n_values].sum(axis=(-1, -2))


@dataclass(frozen=True)
class _Right:
    n_values: int

    def __call__(self, mass: Floats) -> Any:
        right = sum(mass[..., k, k] for k in range(self.n_values))
        with np.errstate(invalid="ignore", divide="ignore"):
            return right / mass[..., : self.n_values, :].sum(axis=(-1, -2))


def _share(right: float, judged: float, level: float) -> Share:
    if not judged:
        return Share(float("nan"), float("nan"), float("nan"), 0)
    low, high = wilson(np.array([right]), np.array([judged]), level)
    return Share(right / judged, float(low[0]), float(high[0]), int(judged))


def right_shares(judged: Iterable[tuple[Any, bool]], level: float = 0.95) -> dict[Any, Share]:
    """For each key of (key, right) pairs how often it is right, with Wilson's interval; the most judged first."""
    counts: dict[Any, list[int]] = {}
    for key, right in judged:
        count = counts.setdefault(key, [0, 0])
        count[0] += right
        count[1] += 1
    ordered = sorted(counts.items(), key=lambda item: (-item[1][1], str(item[0])))
    return {key: _share(right, n, level) for key, (right, n) in ordered}
