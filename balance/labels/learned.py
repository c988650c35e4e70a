"""A small classifier on top of a word list: whether what the list finds in a caption is right.

It is trained on judged rows (`scripts/label_filter.py`), whoever judged them, and looks at the caption's words, pairs
of words and capitals, hashed; a mention that it takes for wrong says nothing. Lists stay the explanation: it can only
take labels away.
"""

import functools
import io
import itertools
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from balance.errors import UserError
from balance.files import write_whole
from balance.labels.tokens import fold, split

Floats = npt.NDArray[np.float64]

BUCKETS = 1 << 16
"""Features are hashed into so many: collisions are rare for the few thousand words that judged captions hold."""
LEAST = 40
"""Judged rows below which nothing is trained: four fifths of 50, as in a cross-validation of five."""


@dataclass(frozen=True, eq=False)
class Filter:
    """A trained classifier.

    Attributes:
        attribute: title of the word list that it is for.
        weights: (BUCKETS,) of the logistic regression.
        bias: its constant.
        threshold: probability of being right below which a mention is dropped.
    """

    attribute: str
    weights: Floats
    bias: float
    threshold: float

    def probability(self, texts: Sequence[str]) -> Floats:
        """(n,) probability that what the list finds in each caption is right."""
        if not len(texts):
            return np.zeros(0)
        rows = [features(text) for text in texts]
        lengths = np.fromiter(map(len, rows), np.int64, len(rows))  # none is empty: each holds how long it is
        flat = np.fromiter(itertools.chain.from_iterable(rows), np.int64, lengths.sum())
        sums = np.add.reduceat(self.weights[flat], np.cumsum(lengths) - lengths)
        return np.asarray(1 / (1 + np.exp(-(sums / np.sqrt(lengths) + self.bias))))

    def describe(self) -> list[object]:
        """What decides its answers, as plain data."""
        return [self.attribute, zlib.crc32(self.weights.astype(np.float32).tobytes()), self.bias, self.threshold]

    def save(self, path: Path) -> None:
        """Write it, whole or not at all."""
        stream = io.BytesIO()
        np.savez_compressed(
            stream, attribute=self.attribute, weights=self.weights.astype(np.float32), bias=self.bias,
            threshold=self.threshold,
        )  # fmt: skip
        write_whole(path, stream.getvalue())


def features(text: str) -> list[int]:
    """The distinct buckets of a caption: words, pairs of words, how words are written, and how long it is."""
    words = split(text)
    buckets = [_bucket(word) for word in words]
    found = set(buckets)
    found.update((40503 * a + b) % BUCKETS for a, b in itertools.pairwise(buckets))
    capitals = sum(map(str.istitle, words))
    found.add(_bucket(f"capitals {4 * capitals // max(1, len(words))}"))
    found.add(_bucket(f"length {min(len(words), 24) // 4}"))
    return list(found)


@functools.lru_cache(1 << 18)
def _bucket(word: str) -> int:
    return zlib.crc32(fold(word).encode()) % BUCKETS


def load_filter(path: str | Path) -> Filter:
    """Read a filter.

    Raises:
        UserError: no such file, or none of ours.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            weights = np.asarray(file["weights"], np.float64)
            found = Filter(str(file["attribute"]), weights, float(file["bias"]), float(file["threshold"]))
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{path} is no filter that scripts/label_filter.py wrote: {error}.") from error
    if found.weights.shape != (BUCKETS,):
        raise UserError(
            f"{path} is no filter that scripts/label_filter.py wrote: it has {found.weights.shape} weights."
        )
    return found


def train_filter(
    attribute: str, texts: Sequence[str], right: Sequence[bool], threshold: float, strength: float
) -> Filter:
    """Fit a logistic regression on judged captions.

    Args:
        attribute: title of the word list.
        texts: n captions in which the list found something.
        right: whether that was right.
        threshold: probability below which a mention will be dropped.
        strength: inverse of the L2 penalty.

    Raises:
        UserError: too few captions, or all right, or all wrong.
    """
    if len(texts) < LEAST or len(set(right)) < 2:
        raise UserError(
            f"{len(texts)} judged labels of {attribute!r}, {sum(right)} of them right, are too few to train on: judge "
            "50 or more, right and wrong ones."
        )
    from sklearn.linear_model import LogisticRegression  # takes a second, which labelling does without

    matrix = design(texts)
    model = LogisticRegression(C=strength, max_iter=1000).fit(matrix, np.asarray(right, int))
    return Filter(attribute, np.asarray(model.coef_[0], np.float64), float(model.intercept_[0]), threshold)


def design(texts: Sequence[str]) -> sp.csr_array:
    """(n, BUCKETS) features, each row of unit length."""
    rows = [features(text) for text in texts]
    data = np.concatenate([np.full(len(row), 1 / np.sqrt(len(row))) for row in rows])
    starts = np.concatenate([[0], np.cumsum([len(row) for row in rows])])
    return sp.csr_array((data, np.concatenate(rows), starts), shape=(len(rows), BUCKETS))
