"""Representation bias of a model: which of several groups its scores prefer on pictures that show none of them.

Source: *CLIP the Bias* (Alabdulmohsin et al., ICLR 2024), mean parity E[p(man) - p(woman)], with p the softmax over the
groups' prompts; *SigLIP 2* (Tschannen et al., 2025) reports the share of pictures that prefer one, minus one half.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np

from balance.common.metric import Metric
from eval.embed import Embedder
from eval.options import groups_by, options, prompt_lists, rows_where
from eval.sets import EvalSet
from eval.stats import Floats, largest_interval, mean_interval, share_interval, size_interval


class Parity:
    """Mean parity and share form over a set.

    Options:
        prompts: group -> prompt or list of prompts; with two groups, parity is that of the first over the second.
        where: label -> value, or values; only pictures that carry one of these values of each label are measured.
        by: a label, or several; the mean parity is then also given for each of its values, or of their combinations.

    With two groups: `mean_parity` = E[p_1 - p_2], `share` = |share preferring the first - 1/2|. With k groups:
    `rb` = max_k |E[p_k] - 1/k|, and the mean probability of each.
    """

    def __init__(self, name: str, config: dict[str, Any], data: EvalSet) -> None:
        self.name, self.data = name, data
        options(name, config, {"prompts"}, {"by", "where"})
        self.prompts = prompt_lists(name, config["prompts"], at_least=2)
        self.rows = rows_where(name, data, config.get("where"))
        place = {row: number for number, row in enumerate(self.rows.tolist())}
        groups = groups_by(name, data, config.get("by"))
        self.groups = {
            group: np.array([place[row] for row in rows.tolist() if row in place]) for group, rows in groups.items()
        }

    def __call__(self, embed: Embedder, rng: np.random.Generator, resamples: int) -> Iterator[Metric]:
        """Measure a model."""
        groups = list(self.prompts)
        p = embed.probabilities(embed.images(self.data)[self.rows], list(self.prompts.values())).numpy()
        texts = " | ".join(prompts[0] for prompts in self.prompts.values())
        if len(groups) == 2:
            yield from self._binary(p, texts, rng, resamples)
        else:
            yield from self._many(p, groups, texts, rng, resamples)

    def _binary(self, p: Floats, texts: str, rng: np.random.Generator, resamples: int) -> Iterator[Metric]:
        difference = p[:, 0] - p[:, 1]
        yield Metric(
            f"{self.name}/mean_parity", *mean_interval(difference, rng, resamples), count=len(p), prompts=texts
        )
        prefers = (difference > 0) + 0.5 * (difference == 0)
        share, low, high = share_interval(prefers)
        yield Metric(f"{self.name}/share", abs(share - 0.5), *size_interval(low - 0.5, high - 0.5), len(p), texts)
        for group, rows in self.groups.items():
            if not len(rows):
                continue
            name = f"{self.name}/mean_parity[{group}]"
            yield Metric(name, *mean_interval(difference[rows], rng, resamples), count=len(rows), prompts=texts)

    def _many(
        self, p: Floats, groups: list[str], texts: str, rng: np.random.Generator, resamples: int
    ) -> Iterator[Metric]:
        def gap(means: list[Floats]) -> Floats:
            return means[0] - 1 / len(groups)

        yield Metric(f"{self.name}/rb", *largest_interval([p], gap, rng, resamples), len(p), texts)
        for column, group in enumerate(groups):
            name = f"{self.name}/probability[{group}]"
            yield Metric(name, *mean_interval(p[:, column], rng, resamples), count=len(p), prompts=texts)
