"""Retrieval bias: who comes first when faces are ranked by a description that no face can answer.

Sources: Geyik et al., *Fairness-Aware Ranking in Search & Recommendation Systems* (KDD 2019), for MaxSkew@k and NDKL;
Berg et al., *A Prompt Array Keeps the Bias Away* (AACL 2022), for the prompts and for a group's share of 1/k where it
has no picture among the first k.
"""

import hashlib
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import xlogy

from balance.common.metric import Metric
from balance.errors import UserError
from eval.embed import Embedder
from eval.options import fill_templates, groups_by, options, stimuli, whole_number, words_of
from eval.sets import EvalSet
from eval.stats import Floats, mean_interval

CHANCE_RANKINGS = 200
BLOCK_CELLS = 1 << 23  # (ranking, place, group) cells counted at a time


class RetrievalBias:
    """MaxSkew@k and NDKL over all prompts, against uniform shares and against the set's own (the base rate).

    Options:
        label: the label of the group, such as `gender`; several give the groups of their combinations.
        concepts: names, or name -> words; by default 29 words about character and success.
        templates: prompts with `{c}`; by default 11 of them.
        k: how many of the first places MaxSkew looks at, or a list; 100 by default, at most the number of pictures.
        per_concept: also give both for each concept.

    Each is a mean over the prompts. Its interval resamples concepts: what other concepts of this kind would give for
    the same faces. `..._chance` is what rankings at random give on these faces: both measures are above zero by
    construction, so that only what lies above chance is bias.
    """

    def __init__(self, name: str, config: dict[str, Any], data: EvalSet) -> None:
        self.name, self.data = name, data
        options(name, config, {"label"}, {"concepts", "templates", "k", "per_concept"})
        known = stimuli("retrieval_bias")
        self.concepts = words_of(config.get("concepts") or known["concepts"])
        self.prompts = fill_templates(name, config.get("templates") or known["templates"], self.concepts)
        groups = groups_by(name, data, config["label"])
        if len(groups) < 2:
            raise UserError(
                f"eval.evaluators.{name}: the set {data.name} has one group only by {config['label']}, "
                f"{next(iter(groups))}; a ranking needs two."
            )
        self.groups = list(groups)
        self.per_concept = bool(config.get("per_concept", False))
        self.rows, self.group_of = self._fixed_order(groups)
        self.ks = _ks(name, config.get("k", 100), len(self.rows), data.name)

    def _fixed_order(self, groups: dict[str, NDArray[np.int64]]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Rows and their groups in an order that depends on the pictures alone: equal scores are ranked by it."""
        rows = np.concatenate(list(groups.values()))
        group_of = np.repeat(np.arange(len(groups)), [len(part) for part in groups.values()])
        keys = self.data.keys or [""] * len(self.data)
        digests = [hashlib.sha1(self.data.encoded[row] + keys[row].encode()).digest() for row in rows]
        order = np.array(sorted(range(len(rows)), key=lambda at: digests[at]))
        return rows[order], group_of[order]

    def __call__(self, embed: Embedder, rng: np.random.Generator, resamples: int) -> Iterator[Metric]:
        """Measure a model."""
        images = embed.images(self.data)[self.rows]
        flat = [prompt for prompts in self.prompts for prompt in prompts]
        scores = (embed.texts(flat) @ images.T).numpy()
        ranked = self.group_of[np.argsort(-scores, axis=1, kind="stable")]
        measured = ranking_bias(ranked, len(self.groups), self.ks)
        shuffled = rng.permuted(np.tile(self.group_of, (CHANCE_RANKINGS, 1)), axis=1)
        chance = ranking_bias(shuffled, len(self.groups), self.ks)
        sizes = [len(prompts) for prompts in self.prompts]
        concept_of = np.repeat(np.arange(len(sizes)), sizes)
        count = len(self.rows)
        text = self.prompts[0][0]
        for measure, values in measured.items():
            each = np.bincount(concept_of, weights=values) / sizes
            found = mean_interval(each, rng, resamples)
            yield Metric(f"{self.name}/{measure}", *found, count=count, prompts=f"{len(flat)} prompts like {text}")
            yield Metric(f"{self.name}/{measure}_chance", float(chance[measure].mean()), count=count)
            if self.per_concept:
                for concept, value, prompts in zip(self.concepts, each, self.prompts, strict=True):
                    yield Metric(f"{self.name}/{measure}[{concept}]", float(value), count=count, prompts=prompts[0])


def _ks(name: str, wanted: Any, n: int, data: str) -> list[int]:
    ks = wanted if isinstance(wanted, list | tuple) else [wanted]
    return [whole_number(name, "k", k, n, f", the labelled pictures of {data}") or n for k in ks]


def ranking_bias(ranked: NDArray[np.int64], groups: int, ks: list[int]) -> dict[str, Floats]:
    """Both measures of many rankings of the same pictures.

    Args:
        ranked: (r, n) the group at each place, best first; every ranking holds the same pictures.
        groups: how many groups there are, each with a picture.
        ks: how many places MaxSkew looks at.

    Returns:
        `maxskew@k_uniform`, `maxskew@k_base_rate`, `ndkl_uniform` and `ndkl_base_rate`, each (r,).
    """
    n = ranked.shape[1]
    base = np.bincount(ranked[0], minlength=groups) / n
    shares = {"uniform": np.full(groups, 1 / groups), "base_rate": base}
    names = [f"maxskew@{k}_{fair}" for k in ks for fair in shares] + [f"ndkl_{fair}" for fair in shares]
    found: dict[str, list[Floats]] = {name: [] for name in names}
    size = max(1, BLOCK_CELLS // (n * groups))
    for start in range(0, len(ranked), size):
        counts = (ranked[start : start + size, :, None] == np.arange(groups)).cumsum(axis=1, dtype=np.int32)
        for fair, desired in shares.items():
            for k in ks:
                found[f"maxskew@{k}_{fair}"].append(max_skew(counts[:, k - 1], k, desired))
            found[f"ndkl_{fair}"].append(ndkl(counts, desired))
    return {name: np.concatenate(parts) for name, parts in found.items()}


def max_skew(counts: NDArray[np.int32], k: int, desired: Floats) -> Floats:
    """MaxSkew@k = max_g ln(p_g / desired_g); a group that is missing counts as one in k.

    Args:
        counts: (r, g) pictures of each group among the first k.
        k: how many places.
        desired: (g,) fair shares.
    """
    skew: Floats = np.log(np.maximum(counts, 1) / k / desired).max(axis=1)
    return skew


def ndkl(counts: NDArray[np.int32], desired: Floats) -> Floats:
    """NDKL = sum_i KL(shares of the first i, desired) / log2(i + 1), over sum_i 1 / log2(i + 1); natural logarithm.

    Args:
        counts: (r, n, g) pictures of each group among the first 1, 2, ... n.
        desired: (g,) fair shares.
    """
    n = counts.shape[1]
    places = np.arange(1, n + 1)
    # sum_g c/i (ln c/i - ln d) = (sum_g c ln c - sum_g c ln d) / i - ln i, with a table of c ln c.
    table = xlogy(np.arange(n + 1), np.arange(n + 1))
    divergence = (table[counts].sum(axis=2) - counts @ np.log(desired)) / places - np.log(places)
    discount = math.log(2) / np.log1p(places)
    result: Floats = np.maximum(divergence, 0) @ discount / discount.sum()
    return result
