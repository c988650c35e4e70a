"""Image-text retrieval: recall at k, both ways, with one or several captions a picture."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from balance.errors import UserError
from eval.embed import Embedder
from eval.metric import Metric
from eval.options import options
from eval.sets import EvalSet
from eval.stats import mean_interval

KS = (1, 5, 10)
BLOCK = 1024


class Retrieval:
    """R@1, R@5 and R@10: the share of queries with a match among the k nearest.

    A caption that stands word for word with another picture too is a match for both, because nothing could tell them
    apart. Equal scores rank a match behind what it ties with, so that a constant model gets no credit.
    """

    def __init__(self, name: str, config: dict[str, Any], data: EvalSet) -> None:
        self.name, self.data = name, data
        options(name, config, set(), set())
        self.rows = [i for i, captions in enumerate(data.captions) if captions]
        if len(self.rows) < 2:
            raise UserError(f"eval.evaluators.{name}: the set {data.name} has no captions to retrieve.")
        texts: dict[str, int] = {}
        for i in self.rows:
            for caption in data.captions[i]:
                texts.setdefault(caption, len(texts))
        self.texts = list(texts)
        # (image, text) pairs that match, as row numbers into `rows` and `texts`.
        pairs = sorted({(n, texts[caption]) for n, i in enumerate(self.rows) for caption in data.captions[i]})
        self.image_of, self.text_of = (torch.tensor(column) for column in zip(*pairs, strict=True))

    def __call__(self, embed: Embedder, rng: np.random.Generator, resamples: int) -> Iterator[Metric]:
        """Measure a model."""
        images, texts = embed.images(self.data)[self.rows], embed.texts(self.texts)
        for way, queries, items, query_of, item_of in (
            ("image_to_text", images, texts, self.image_of, self.text_of),
            ("text_to_image", texts, images, self.text_of, self.image_of),
        ):
            rank = best_ranks(queries, items, query_of, item_of)
            for k in KS:
                hit = (rank < k).astype(float)
                yield Metric(f"{self.name}/{way}_r{k}", *mean_interval(hit, rng, resamples), count=len(hit))


def best_ranks(
    queries: torch.Tensor, items: torch.Tensor, query_of: torch.Tensor, item_of: torch.Tensor
) -> np.ndarray[Any, np.dtype[np.int64]]:
    """For each query the rank, from 0, of its best match among all items.

    Args:
        queries: (n, d).
        items: (k, d).
        query_of: (p,) row of the query of each matching pair.
        item_of: (p,) row of the item of each matching pair.

    Returns:
        (n,) the number of items that score at least as high as the best match, other matches left out.
    """
    ranks = []
    for start in range(0, len(queries), BLOCK):
        scores = queries[start : start + BLOCK] @ items.T
        inside = (query_of >= start) & (query_of < start + len(scores))
        match = torch.zeros_like(scores, dtype=torch.bool)
        match[query_of[inside] - start, item_of[inside]] = True
        best = scores.masked_fill(~match, -torch.inf).amax(dim=1, keepdim=True)
        ranks.append(((scores >= best) & ~match).sum(dim=1))
    return torch.cat(ranks).numpy()
