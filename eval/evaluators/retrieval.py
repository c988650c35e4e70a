"""Image-text retrieval: recall at k, both ways, with one or several captions a picture."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from balance.common.metric import Metric
from balance.errors import UserError
from eval.embed import Embedder
from eval.options import options
from eval.sets import EvalSet
from eval.stats import clustered_interval

KS = (1, 5, 10)
BLOCK_SCORES = 1 << 24  # similarities held at a time: 64 MiB


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
        # (image, text) pairs that match, as row numbers into `rows` and `texts`, in the order of images.
        pairs = sorted({(n, texts[caption]) for n, i in enumerate(self.rows) for caption in data.captions[i]})
        self.image_of, self.text_of = (torch.tensor(column) for column in zip(*pairs, strict=True))
        # A picture's captions are hit or missed together, so that intervals resample pictures.
        first: dict[int, int] = {}
        for image, text in pairs:
            first.setdefault(text, image)
        self.clusters = {
            "image_to_text": np.arange(len(self.rows)),
            "text_to_image": np.array([first[text] for text in range(len(self.texts))]),
        }

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
                found = clustered_interval(hit, self.clusters[way], rng, resamples)
                yield Metric(f"{self.name}/{way}_r{k}", *found, count=len(hit))


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

    Scores exist for a block of queries at a time, `BLOCK_SCORES` numbers, whatever n and k are.
    """
    order = query_of.argsort(stable=True)
    query_of, item_of = query_of[order], item_of[order]
    size = max(1, BLOCK_SCORES // max(len(items), 1))
    ranks = torch.empty(len(queries), dtype=torch.int64)
    for start in range(0, len(queries), size):
        scores = queries[start : start + size] @ items.T
        first, last = torch.searchsorted(query_of, torch.tensor([start, start + len(scores)])).tolist()
        rows = query_of[first:last] - start
        matching = scores[rows, item_of[first:last]]
        best = scores.new_full((len(scores),), -torch.inf).scatter_reduce(0, rows, matching, "amax")
        above = (scores >= best[:, None]).sum(dim=1)
        matches_above = torch.zeros_like(above).index_add(0, rows, (matching >= best[rows]).long())
        ranks[start : start + len(scores)] = above - matches_above
    return ranks.numpy()
