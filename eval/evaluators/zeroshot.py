"""Zero-shot classification: the class whose prompts lie nearest to the picture."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from balance.common.metric import Metric
from balance.errors import UserError
from eval.embed import Embedder
from eval.options import concepts_of, fill_templates, groups_by, need_field, options
from eval.sets import EvalSet
from eval.stats import Floats, extreme_interval, largest_interval, pairwise, share_interval, statistic_interval


class ZeroShot:
    """Top-1, top-5 and mean per-class accuracy with prompt-ensembled class features.

    Options:
        label: the JSON field with the class; by default the `.cls` number of CLIP_benchmark's layout.
        classes: names, or value of the label -> words, or the name of a label whose values are taken, those that enough
            images bear; by default the set's `classnames.txt`.
        templates: prompts with `{c}`; by default those of the set, or else "a photo of a {c}".
        by: a label, or several, of who is shown: top-1 is then also given for each group, with the lowest
            (`worst_group`) and the distance between the highest and the lowest (`group_gap`).

    What guessing gives (`chance`) is the best that one answer for all pictures would give, such as the largest class.

    With many small groups the gap is large by chance alone, since it is a distance between extremes.

    Samples without the label are left out. A set that holds pictures of some of the classes only is still compared with
    all of them.
    """

    def __init__(self, name: str, config: dict[str, Any], data: EvalSet) -> None:
        self.name, self.data = name, data
        options(name, config, set(), {"label", "classes", "templates", "by"})
        label = config.get("label") or "cls"
        need_field(name, data, label)
        if config.get("classes"):
            classes = concepts_of(name, data, config["classes"])
        elif data.classnames:
            classes = {str(number): [word] for number, word in enumerate(data.classnames) if word}
        else:
            raise UserError(
                f"eval.evaluators.{name}.classes must be given, since the set {data.name} has no classnames.txt."
            )
        numbers = {key: number for number, key in enumerate(classes)}
        self.prompts = fill_templates(name, config.get("templates") or data.templates or ["a photo of a {c}"], classes)
        self.rows = np.array([i for i, known in enumerate(data.labels) if str(known.get(label)) in numbers], dtype=int)
        if not len(self.rows):
            raise UserError(
                f"eval.evaluators.{name}: no sample of the set {data.name} has a {label} among its classes."
            )
        self.truth = np.array([numbers[str(data.labels[i][label])] for i in self.rows])
        found = {
            group: np.flatnonzero(np.isin(self.rows, r)) for group, r in groups_by(name, data, config.get("by")).items()
        }
        self.groups = {group: rows for group, rows in found.items() if len(rows)}

    def __call__(self, embed: Embedder, rng: np.random.Generator, resamples: int) -> Iterator[Metric]:
        """Measure a model."""
        scores = (embed.images(self.data)[self.rows] @ embed.prompts(self.prompts).T).numpy()
        own = scores[np.arange(len(scores)), self.truth][:, None]
        # Ties rank before the right class, so that a constant model gets no credit.
        rank = (scores >= own).sum(axis=1) - 1
        first = (rank < 1).astype(float)
        text, k = self.prompts[0][0], len(self.prompts)
        shares = np.sort(np.bincount(self.truth, minlength=k) / len(rank))[::-1]
        found, one = share_interval(first), float(shares[0])
        yield Metric(f"{self.name}/top1", *found, count=len(rank), prompts=text, chance=one)
        if len(self.prompts) > 5:
            five = (rank < 5).astype(float)
            found, best = share_interval(five), float(shares[:5].sum())
            yield Metric(f"{self.name}/top5", *found, count=len(rank), prompts=text, chance=best)
        groups = [first[self.truth == c][:, None] for c in np.unique(self.truth)]

        def mean_of_means(means: list[Floats]) -> Floats:
            return np.mean(means, axis=0)

        value, low, high = statistic_interval(groups, mean_of_means, rng, resamples)
        # A class of one picture always resamples to itself: such an interval would be too narrow.
        sure = min(map(len, groups)) > 1
        ends = {"low": float(low[0]), "high": float(high[0])} if sure else {}
        even = 1 / len(groups)
        yield Metric(f"{self.name}/mean_per_class", float(value[0]), **ends, count=len(rank), prompts=text, chance=even)
        yield from self._by_group(first, rng, resamples)

    def _by_group(self, first: Floats, rng: np.random.Generator, resamples: int) -> Iterator[Metric]:
        parts = [first[rows][:, None] for rows in self.groups.values()]
        text = self.prompts[0][0]
        for group, part in zip(self.groups, parts, strict=True):
            found = share_interval(part[:, 0])
            yield Metric(f"{self.name}/top1[{group}]", *found, count=len(part), prompts=text)
        if len(parts) > 1:
            count = sum(map(len, parts))
            yield Metric(f"{self.name}/worst_group", *extreme_interval(parts, rng, resamples), count, text)
            yield Metric(f"{self.name}/group_gap", *largest_interval(parts, pairwise, rng, resamples), count, text)
