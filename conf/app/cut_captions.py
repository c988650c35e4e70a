"""Captions of which the model sees only the beginning, and labels that stand behind the cut.

Labels are made of whole captions, before there is a model; so this is counted and said, by a dry run and when a run
starts, from a few hundred captions.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from balance.labels.captions import CaptionSource
from balance.stream.samples import BadSample, parse_sample, read_shard
from models.factory import ModelBundle

CAPTIONS = 500  # of the first shard
OFTEN = 0.01  # share of cut captions from which on they are worth a word


@dataclass(frozen=True)
class CutCaptions:
    """What was found.

    Attributes:
        looked_at: captions that were looked at.
        cut: those that are longer than the tokens they get.
        behind: those whose labels would be others if only what the model sees were labelled.
        example: one that is cut; of `behind` where there is one.
    """

    looked_at: int = 0
    cut: int = 0
    behind: int = 0
    example: str = ""

    def row(self) -> str:
        """The counts in words."""
        return f"{self.cut:,} of the first {self.looked_at:,}; {self.behind:,} labelled by words behind the cut"

    def sentence(self) -> str:
        """A warning; empty where it isn't worth one."""
        if not self.behind and self.cut <= OFTEN * self.looked_at:
            return ""
        behind = f", and {self.behind} are labelled by words that the model never sees" if self.behind else ""
        return (
            f"The tokenizer cuts {self.cut} of the first {self.looked_at} captions{behind}, such as "
            f"{self.example[:80]!r}; raise model.context_length."
        )


def find_cut_captions(shards: Sequence[str], bundle: ModelBundle, attributes: Mapping[str, Any] | None) -> CutCaptions:
    """Look at the first captions of the first shard.

    Args:
        shards: the training shards.
        bundle: its tokenizer is asked.
        attributes: the configuration group; its sources of the kind `captions` say what labels stand where.
    """
    captions = _first_captions(shards[0])
    cut = cut_texts(bundle, captions)
    if not cut:
        return CutCaptions(len(captions))
    seen = _visible(bundle, cut)
    other = np.zeros(len(cut), bool)
    for source in (attributes or {}).get("sources") or []:
        if source.get("kind") == "captions":
            labeller, owner = CaptionSource(source), np.arange(len(cut))
            whole = np.concatenate(labeller.annotate_texts(cut, owner, len(cut)), axis=1)
            part = np.concatenate(labeller.annotate_texts(seen, owner, len(cut)), axis=1)
            other |= ~np.isclose(whole, part, rtol=0, atol=0, equal_nan=True).all(axis=1)
    return CutCaptions(len(captions), len(cut), int(other.sum()), cut[int(other.argmax())])


def cut_texts(bundle: ModelBundle, texts: Sequence[str]) -> list[str]:
    """The texts that are longer than the tokens they get; none where the tokenizer can't tell."""
    if not texts:
        return []
    tokenizer: Any = bundle.tokenizer
    pad = int(tokenizer([""])[0, -1])
    length = tokenizer(list(texts[:1])).shape[1]
    try:
        whole = tokenizer(list(texts), context_length=4 * length)
    except TypeError:  # its length is fixed
        return []
    over = (whole[:, length:] != pad).any(dim=1).tolist()
    return [text for text, cut in zip(texts, over, strict=True) if cut]


def _visible(bundle: ModelBundle, texts: Sequence[str]) -> list[str]:
    """Of each text as many words from its beginning as fit, by bisection for all texts at once."""
    words = [text.split() for text in texts]
    fits, over = [0] * len(words), [len(parts) for parts in words]
    while any(high - low > 1 for low, high in zip(fits, over, strict=True)):
        middle = [(low + high) // 2 for low, high in zip(fits, over, strict=True)]
        tried = [" ".join(parts[:count]) for parts, count in zip(words, middle, strict=True)]
        too_long = set(cut_texts(bundle, tried))
        for row, (text, count) in enumerate(zip(tried, middle, strict=True)):
            if text in too_long:
                over[row] = count
            else:
                fits[row] = max(fits[row], count)
    return [" ".join(parts[:count]) for parts, count in zip(words, fits, strict=True)]


def _first_captions(shard: str) -> list[str]:
    captions: list[str] = []
    for raw in read_shard(shard, on_bad=lambda damage: None):
        try:
            captions.extend(parse_sample(raw).captions)
        except BadSample:
            continue
        if len(captions) >= CAPTIONS:
            break
    return captions
