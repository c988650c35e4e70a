"""Labels held against somebody who reads: a stratified sample to judge, and what the judgements say.

The labels of an attribute split the samples into strata (each value, and unknown), of which equally many are read. A
share of all samples is then the mean over strata with their sizes as weights, so that rare labels are measured as well
as frequent ones. Concepts are two strata, mentions (one row for each concept of a sample) and samples with none.
"""

import heapq
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from balance.intervals import wilson
from balance.labels.annotators import Annotator
from balance.stream.samples import Sample

Floats = NDArray[np.float64]

UNKNOWN, NONE, CONCEPT = "unknown", "none", "concept"
"""The label of a sample that has none; the truth where there is nobody of any value; the attribute of concepts."""
BATCH = 1024
POOR = 0.8
"""Precision below which labels are too poor to balance on: as many samples then speak against a target as chance
leaves room for."""
_DRAWS = 2000


@dataclass(frozen=True)
class Row:
    """One label to be judged.

    Attributes:
        attribute: the attribute's name, or `concept`.
        label: what the annotator says: a value, a concept, `unknown`, or `none` for a sample without any concept.
        words: the words that made it, where a word list did.
        sample: what it is said of.
    """

    attribute: str
    label: str
    words: tuple[str, ...]
    sample: Sample

    @property
    def stratum(self) -> tuple[str, str]:
        """Which stratum it was drawn from."""
        pooled = self.attribute == CONCEPT and self.label != NONE
        return self.attribute, CONCEPT if pooled else self.label


@dataclass
class Drawn:
    """A stratified sample.

    Attributes:
        samples: how many samples were looked at.
        sizes: rows of each stratum among them.
        rows: those that were drawn, at random in each stratum.
    """

    samples: int = 0
    sizes: dict[tuple[str, str], int] = field(default_factory=dict)
    rows: list[Row] = field(default_factory=list)


def attribute_values(s_names: Sequence[str]) -> dict[str, list[str]]:
    """The values of each attribute by the names of its columns: `woman` has `woman` and `not woman`."""
    values: dict[str, list[str]] = {}
    for name in s_names:
        attribute, one_hot, value = name.partition("=")
        values.setdefault(attribute, []).extend([value] if one_hot else [name, f"not {name}"])
    return values


def draw(annotator: Annotator, samples: Iterable[Sample], per_label: int, seed: int) -> Drawn:
    """Label samples, and keep so many of each stratum: all that are there, where there are fewer.

    Args:
        annotator: what labels them.
        samples: in any order; read once.
        per_label: rows of each stratum.
        seed: of the choice.
    """
    rng = np.random.default_rng(seed)
    drawn = Drawn()
    kept: dict[tuple[str, str], list[tuple[float, int, Row]]] = {}
    count = 0
    for batch in _batches(samples):
        drawn.samples += len(batch)
        for row in _rows(annotator, batch):
            heap = kept.setdefault(row.stratum, [])
            drawn.sizes[row.stratum] = drawn.sizes.get(row.stratum, 0) + 1
            count += 1
            item = (float(rng.random()), count, row)
            if len(heap) < per_label:
                heapq.heappush(heap, item)
            else:
                heapq.heappushpop(heap, item)
    drawn.rows = [row for _, heap in sorted(kept.items()) for _, _, row in sorted(heap, key=lambda item: item[:2])]
    return drawn


def _batches(samples: Iterable[Sample]) -> Iterator[list[Sample]]:
    batch: list[Sample] = []
    for sample in samples:
        batch.append(sample)
        if len(batch) == BATCH:
            yield batch
            batch = []
    if batch:
        yield batch


def _rows(annotator: Annotator, batch: Sequence[Sample]) -> Iterator[Row]:
    s, y = annotator.annotate(batch)
    words = annotator.words(batch)
    columns: dict[str, list[int]] = {}
    for k, name in enumerate(annotator.s_names):
        columns.setdefault(name.partition("=")[0], []).append(k)
    values = attribute_values(annotator.s_names)
    proxies = set(annotator.proxies)
    for i, sample in enumerate(batch):
        for attribute, places in columns.items():
            label = _label(s[i, places], values[attribute])
            made = words[i].get(attribute, ()) if label != UNKNOWN else ()
            yield Row(attribute, label, tuple(made), sample)
        found = [name for name, bit in zip(annotator.y_names, y[i], strict=True) if bit and name not in proxies]
        for name in found:
            yield Row(CONCEPT, name, tuple(words[i].get(name, ())), sample)
        if not found and annotator.y_names:
            yield Row(CONCEPT, NONE, (), sample)


def _label(s: NDArray[np.float32], values: Sequence[str]) -> str:
    if np.isnan(s).all():
        return UNKNOWN
    if len(s) == 1:
        return values[0] if s[0] >= 0.5 else values[1]
    best = int(np.nanargmax(s))
    return values[best] if s[best] > 0.5 else UNKNOWN


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
