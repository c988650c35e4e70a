"""Labels of an evaluation set's pictures, read off their captions by word lists.

A label says what the wording states about how a person is perceived, not who that person is.
"""

from collections.abc import Sequence

import numpy as np

from balance.labels.captions import CaptionSource

NOT_MENTIONED = "not mentioned"
SEVERAL = "several"


def labels_by_wording(captions: Sequence[Sequence[str]], words: Sequence[str]) -> list[dict[str, str]]:
    """Read labels off captions.

    Args:
        captions: for each picture its captions, possibly none.
        words: attribute word lists, such as `gender` (conf/words), or paths that end in .yaml.

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
                labels[f"caption_{attribute}"] = NOT_MENTIONED if not said else said[0] if len(said) == 1 else SEVERAL
    return found
