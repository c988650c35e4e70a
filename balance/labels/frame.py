"""Captions of a data frame, labelled by word lists into the columns that `balance.from_pandas` takes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from balance.labels.captions import CaptionSource
from balance.stream.samples import Sample

_ROWS = 65_536  # labelled at a time


class CaptionLabels(NamedTuple):
    """Labels of captions: `balance.from_pandas(*labels)` balances them.

    Attributes:
        frame: one row a caption; attributes are float, NaN where unknown, and concepts are boolean.
        attributes: the columns that are attributes.
        concepts: the columns that are concepts.
    """

    frame: pd.DataFrame
    attributes: list[str]
    concepts: list[str]


def label_captions(
    captions: Iterable[str | None],
    attributes: Sequence[str] = ("gender",),
    concepts: Sequence[str] = ("occupations",),
    **options: Any,
) -> CaptionLabels:
    """Label captions by word lists (docs/attributes.md).

    Args:
        captions: a column of text; None and NaN say nothing. The index of a pandas series is kept.
        attributes: word lists of attributes: names in `balance/labels/word_lists`, or paths that end in .yaml.
        concepts: word lists of concepts.
        options: further keys of a captions source, such as `both="probability"`.

    Raises:
        UserError: a word list that is not there or not valid.
    """
    source = CaptionSource({"kind": "captions", "attributes": list(attributes), "concepts": list(concepts), **options})
    index = captions.index if isinstance(captions, pd.Series) else None
    s, y = [np.zeros((0, len(source.s_names)), np.float32)], [np.zeros((0, len(source.y_names)), np.uint8)]
    samples: list[Sample] = []

    def flush() -> None:
        labelled = source.annotate(samples)
        s.append(labelled[0])
        y.append(labelled[1])
        samples.clear()

    for caption in captions:
        samples.append(Sample("", b"", (caption,) if isinstance(caption, str) else ()))
        if len(samples) == _ROWS:
            flush()
    flush()
    columns = dict(zip(source.s_names, np.concatenate(s).T, strict=True))
    columns |= dict(zip(source.y_names, np.concatenate(y).astype(bool).T, strict=True))
    return CaptionLabels(pd.DataFrame(columns, index=index), list(source.s_names), list(source.y_names))
