"""Image-text retrieval: recall at k, both ways, with one or several captions a picture."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import hypergeom

from balance.common.metric import Metric
from balance.errors import UserError
from eval.embed import Embedder
from eval.options import options
from eval.sets import EvalSet
from eval.stats import Floats, share_interval

KS = (1, 5, 10)
BLOCK_SCORES = 1 << 24  # similarities held at a time: 64 MiB
MANY_SHARED = 0.01  # share of captions that stand with several pictures, from which it is worth a word


class Retrieval:
    """R@1, R@5 and R@10: the share of queries with a match among the k nearest.

    Options:
        repeats: what a caption is that stands word for word more than once. `each` (the default, as CLIP_benchmark has
            it): every caption is a query and an item of its own, and matches its own picture alone. `once`: equal
            captions are one, which matches all of their pictures, since nothing could tell them apart.

    Equal scores stand in any order: a query counts with the chance that one of its matches is among the first k. So a
    constant model gets what chance gives, and so does a caption that repeats among its equals. CLIP_benchmark takes the
    order in which `torch.topk` happens to return them, which is one of these orders.
    """

    def __init__(self, name: str, config: dict[str, Any], data: EvalSet) -> None:
        self.name, self.data = name, data
        options(name, config, set(), {"repeats"})
        repeats = config.get("repeats") or "each"
        if repeats not in ("each", "once"):
            raise UserError(f"eval.evaluators.{name}.repeats={repeats} is neither each nor once.")
        self.rows = [i for i, captions in enumerate(data.captions) if captions]
        if len(self.rows) < 2:
            raise UserError(f"eval.evaluators.{name}: the set {data.name} has no captions to retrieve.")
        # (image, text) pairs that match, as row numbers into `rows` and `texts`, in the order of images.
        pairs = [(n, caption) for n, i in enumerate(self.rows) for caption in data.captions[i]]
        self.skipped = self._shared(pairs) if repeats == "each" else []
        if repeats == "each":
            self.texts = [caption for _, caption in pairs]
            numbered = [(image, text) for text, (image, _) in enumerate(pairs)]
        else:
            place = {caption: number for number, caption in enumerate(dict.fromkeys(c for _, c in pairs))}
            self.texts = list(place)
            numbered = sorted({(image, place[caption]) for image, caption in pairs})
        self.image_of, self.text_of = (torch.tensor(column) for column in zip(*numbered, strict=True))
        # A picture's captions are hit or missed together, so that intervals resample pictures.
        first: dict[int, int] = {}
        for image, text in numbered:
            first.setdefault(text, image)
        self.clusters = {
            "image_to_text": np.arange(len(self.rows)),
            "text_to_image": np.array([first[text] for text in range(len(self.texts))]),
        }

    def _shared(self, pairs: list[tuple[int, str]]) -> list[str]:
        """A sentence where many captions stand with more than one picture."""
        images: dict[str, set[int]] = {}
        for image, caption in pairs:
            images.setdefault(caption, set()).add(image)
        shared = sum(len(images[caption]) > 1 for _, caption in pairs)
        if shared <= MANY_SHARED * len(pairs):
            return []
        return [
            f"{shared:,} of {len(pairs):,} captions of the set {self.data.name} stand word for word with several "
            "pictures, of which one counts as the match; repeats=once counts all."
        ]

    def __call__(self, embed: Embedder, rng: np.random.Generator, resamples: int) -> Iterator[Metric]:
        """Measure a model."""
        images = embed.images(self.data)[self.rows]
        # Equal captions must score alike to the last bit, which a product over all of them would not promise.
        place = {text: number for number, text in enumerate(dict.fromkeys(self.texts))}
        distinct, alike = embed.texts(list(place)), torch.tensor([place[text] for text in self.texts])
        to_text = best_ranks(images, distinct, self.image_of, self.text_of, alike)
        to_image = best_ranks(distinct[alike], images, self.text_of, self.image_of)
        for way, ranks in (("image_to_text", to_text), ("text_to_image", to_image)):
            queries, items = len(ranks.above), len(self.texts if way == "image_to_text" else self.rows)
            matches = np.bincount(self.image_of if way == "image_to_text" else self.text_of, minlength=queries)
            guess = Ranks(np.zeros(queries, dtype=np.int64), items - matches, matches)
            for k in KS:
                hit = ranks.hits(k)
                found = share_interval(hit, self.clusters[way])
                chance = float(guess.hits(k).mean())
                yield Metric(f"{self.name}/{way}_r{k}", *found, count=len(hit), chance=chance)


@dataclass
class Ranks:
    """Where the best matches of queries stand, (n,) each.

    Attributes:
        above: items that score higher than the best match.
        tied: items that score as high as it and are no match.
        matches: matches that score as high as the best one, itself among them.
    """

    above: NDArray[np.int64]
    tied: NDArray[np.int64]
    matches: NDArray[np.int64]

    def hits(self, k: int) -> Floats:
        """For each query the chance that a match is among the first k, with equal scores in any order; (n,)."""
        places = np.clip(k - self.above, 0, self.tied + self.matches)
        found: Floats = (places > 0).astype(np.float64)
        some = np.flatnonzero((places > 0) & (self.tied >= places))
        if len(some):
            whole = self.tied[some] + self.matches[some]
            found[some] = hypergeom.sf(0, whole, self.matches[some], places[some])
        return found


def best_ranks(
    queries: torch.Tensor,
    items: torch.Tensor,
    query_of: torch.Tensor,
    item_of: torch.Tensor,
    alike: torch.Tensor | None = None,
) -> Ranks:
    """For each query where its best match stands among all items.

    Args:
        queries: (n, d).
        items: (k, d).
        query_of: (p,) row of the query of each matching pair.
        item_of: (p,) number of the item of each matching pair.
        alike: (m,) the row of `items` that each of m items has; by default each row is one item.

    Scores exist for a block of queries at a time, `BLOCK_SCORES` numbers, whatever n and k are.
    """
    order = query_of.argsort(stable=True)
    query_of, item_of = query_of[order], item_of[order]
    weights = None
    if alike is not None:
        item_of, weights = alike[item_of], torch.bincount(alike, minlength=len(items))
    size = max(1, BLOCK_SCORES // max(len(items), 1))
    ranks = torch.empty(3, len(queries), dtype=torch.int64)
    for start in range(0, len(queries), size):
        scores = queries[start : start + size] @ items.T
        first, last = torch.searchsorted(query_of, torch.tensor([start, start + len(scores)])).tolist()
        rows = query_of[first:last] - start
        matching = scores[rows, item_of[first:last]]
        best = scores.new_full((len(scores),), -torch.inf).scatter_reduce(0, rows, matching, "amax")
        above, equal = (_count(test, weights) for test in (scores > best[:, None], scores == best[:, None]))
        matches = torch.zeros_like(above).index_add(0, rows, (matching == best[rows]).long())
        ranks[:, start : start + len(scores)] = torch.stack([above, equal - matches, matches])
    return Ranks(*ranks.numpy())


def _count(test: torch.Tensor, weights: torch.Tensor | None) -> torch.Tensor:
    """How many items pass a test, for each query: (n, k) to (n,)."""
    if weights is None:
        return test.sum(dim=1)
    # Rows that stand for several items are few: those that stand for one are counted without a product.
    several = (weights != 1).nonzero().flatten()
    return test.sum(dim=1) + (test[:, several] * (weights[several] - 1)).sum(dim=1)
