"""Labels of an evaluation set's pictures, read off their captions by word lists.

A label says what the wording states about how a person is perceived, not who that person is.
"""

from collections.abc import Sequence

import numpy as np

from balance.labels.captions import CaptionSource

BY_WORDING = "caption_"  # what the names of such labels begin with
CONCEPT = f"{BY_WORDING}concept"
NOT_MENTIONED = "not mentioned"
SEVERAL = "several"


def labels_by_wording(captions: Sequence[Sequence[str]], words: Sequence[str]) -> list[dict[str, str]]:
    """Read labels off captions.

    Args:
        captions: for each picture its captions, possibly none.
        words: attribute word lists, such as `gender` (balance/labels/word_lists), or paths that end in .yaml.

    Returns:
        For each picture `caption_<attribute>` -> the value that more than half of its captions that tell agree on;
        `several` where they don't, or mention several values; `not mentioned` where none tells. Pictures without
        captions have no label.

    Raises:
        UserError: a word list isn't there, or is one of concepts.
    """
    source = CaptionSource({"kind": "captions", "attributes": list(words), "one_hot": True, "both": "both"})
    owner = np.repeat(np.arange(len(captions)), [len(texts) for texts in captions])
    s, _ = source.annotate_texts([text for texts in captions for text in texts], owner, len(captions))
    found: list[dict[str, str]] = [{} for _ in captions]
    by_attribute: dict[str, list[int]] = {}
    for column, name in enumerate(source.s_names):
        by_attribute.setdefault(name.partition("=")[0], []).append(column)
    for attribute, columns in by_attribute.items():
        values = [source.s_names[column].partition("=")[2] for column in columns]
        for labels, texts, row in zip(found, captions, s[:, columns], strict=True):
            if texts:
                said = [value for value, told in zip(values, row, strict=True) if told == 1]
                labels[f"{BY_WORDING}{attribute}"] = _one_of(said)
    return found


def concepts_by_wording(captions: Sequence[Sequence[str]], concepts: Sequence[str]) -> list[dict[str, str]]:
    """Read off captions what is shown or done.

    Args:
        captions: for each picture its captions, possibly none.
        concepts: concept lists, such as `occupations` (balance/labels/word_lists), or paths that end in .yaml.

    Returns:
        For each picture `caption_concept` -> the one concept of all lists that its captions mention; `several` or
        `not mentioned` otherwise. Pictures without captions have no label.

    Raises:
        UserError: a word list isn't there, or is one of an attribute.
    """
    source = CaptionSource({"kind": "captions", "concepts": list(concepts)})
    owner = np.repeat(np.arange(len(captions)), [len(texts) for texts in captions])
    _, y = source.annotate_texts([text for texts in captions for text in texts], owner, len(captions))
    found: list[dict[str, str]] = []
    for texts, row in zip(captions, y, strict=True):
        said = np.flatnonzero(row)
        found.append({CONCEPT: _one_of([source.y_names[r] for r in said])} if texts else {})
    return found


def _one_of(said: Sequence[str]) -> str:
    return said[0] if len(said) == 1 else SEVERAL if said else NOT_MENTIONED
