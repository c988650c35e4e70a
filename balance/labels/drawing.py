"""A stratified sample of labels to judge.

Rare labels are measured as well as frequent ones, since equally many rows of each stratum are drawn: of each value of
an attribute and of the unknown, of mentions of concepts (one row for each concept of a sample) and of samples with
none.
"""

import heapq
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from balance.labels.annotators import Annotator
from balance.labels.checking import CONCEPT, NONE, UNKNOWN, attribute_values
from balance.stream.samples import Sample

BATCH = 1024


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
