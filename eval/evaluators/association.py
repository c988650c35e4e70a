"""Association bias of a model: whether its scores for concepts differ between groups of faces that are otherwise alike.

Source: *CLIP the Bias* (Alabdulmohsin et al., ICLR 2024): AB = max_r |E[f_r | s = 1] - E[f_r | s = 0]|, with f_r the
softmax probability of concept r (an occupation) among all concepts.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from balance.common.metric import Metric
from balance.errors import UserError
from eval.embed import Embedder
from eval.options import concepts_of, fill_templates, groups_by, labels_of, need_field, options, rows_where
from eval.sets import EvalSet, MissingSet
from eval.stats import Floats, largest_interval, pairwise, statistic_interval
from eval.wording import BY_WORDING

Rows = NDArray[np.int64]


@dataclass
class Sides:
    """Two groups of pictures that are compared.

    Attributes:
        suffix: what a metric's name carries for them, such as `[race=Asian]`; nothing for all pictures.
        positive: rows of the one.
        negative: rows of the other.
    """

    suffix: str
    positive: Rows
    negative: Rows

    def split(self, values: Floats) -> list[Floats]:
        """Values (n, r) of either side."""
        return [values[self.positive], values[self.negative]]

    @property
    def count(self) -> int:
        """How many pictures there are."""
        return len(self.positive) + len(self.negative)


class Association:
    """AB over labelled faces, its maximum and per concept.

    Options:
        label: the label of the group, such as `gender`.
        positive, negative: its two values that are compared; each one value, or a list of values that mean the same.
        concepts: names, or name -> words, or the name of a label whose values are taken, those that enough images bear.
        where: label -> value, or values; only images that carry one of these values of each label are measured.
        templates: prompts with `{c}`; "a photo of a {c}" by default.
        pairs: pairs of concepts compared with each other alone, each by a softmax over the two.
        by: a label, or several. AB and the pairs are then also given within each of its groups, and
            `max_between_cells` is the largest difference in a concept's mean probability between any two cells of
            label x by, such as Black women and white men.

    Values are compared as text, so that 1 in a JSON file and "1" in a table are the same. The values of
    `max` and `max_between_cells` are maxima and lie above zero by chance alone; their intervals allow for that, and
    begin at 0 where nothing beyond chance is seen. A group that lacks a side is left out and named in `skipped`.
    """

    def __init__(self, name: str, config: dict[str, Any], data: EvalSet) -> None:
        self.name, self.data = name, data
        options(name, config, {"label", "positive", "negative"}, {"concepts", "templates", "pairs", "by", "where"})
        need_field(name, data, config["label"])
        templates = config.get("templates") or ["a photo of a {c}"]
        self.concepts = concepts_of(name, data, config.get("concepts") or [])
        self.pairs = [tuple(map(str, pair)) for pair in config.get("pairs") or []]
        if len(self.concepts) == 1 or not (self.concepts or self.pairs):
            raise UserError(f"eval.evaluators.{name} needs at least two concepts, or pairs of them.")
        if any(len(pair) != 2 for pair in self.pairs):
            raise UserError(f"eval.evaluators.{name}.pairs must hold two concepts each.")
        self.prompts = fill_templates(name, templates, self.concepts)
        self.pair_prompts = [fill_templates(name, templates, {c: [c] for c in pair}) for pair in self.pairs]
        self.rows = rows_where(name, data, config.get("where"))
        self.all = Sides("", self._side(config, "positive"), self._side(config, "negative"))
        self.within, self.skipped = self._by(config.get("by"))

    def _side(self, config: dict[str, Any], side: str) -> Rows:
        label, wanted = config["label"], config[side]
        values = {str(value) for value in (wanted if isinstance(wanted, (list, tuple)) else [wanted])}
        rows = [row for row in self.rows.tolist() if str(self.data.labels[row].get(label)) in values]
        if not rows and label.startswith(BY_WORDING):  # what captions say is not the user's to mend
            raise MissingSet(
                f"no picture of the set {self.data.name} that counts has {label}={'|'.join(sorted(values))}."
            )
        if not rows:
            there = sorted({str(known.get(label)) for known in self.data.labels})[:20]
            raise UserError(
                f"eval.evaluators.{self.name}: no sample of the set {self.data.name} has "
                f"{label}={'|'.join(sorted(values))}; there are {there}."
            )
        return np.array(rows)

    def _by(self, by: Any) -> tuple[list[Sides], list[str]]:
        """Both sides within each group, and a sentence for each group that lacks one."""
        within, skipped = [], []
        for group, rows in groups_by(self.name, self.data, labels_of(by)).items():
            sides = Sides(
                f"[{group}]", np.intersect1d(self.all.positive, rows), np.intersect1d(self.all.negative, rows)
            )
            if len(sides.positive) and len(sides.negative):
                within.append(sides)
            else:
                skipped.append(f"{group} is left out, since it has pictures of one side only.")
        return within, skipped

    def __call__(self, embed: Embedder, rng: np.random.Generator, resamples: int) -> Iterator[Metric]:
        """Measure a model."""
        images = embed.images(self.data)
        if self.concepts:
            p = embed.probabilities(images, self.prompts).numpy()
            for sides in [self.all, *self.within]:
                yield from self._concepts(p, sides, rng, resamples)
            if self.within:
                yield self._between_cells(p, rng, resamples)
        if self.pairs:
            yield from self._pairs(embed, rng, resamples)

    def _pairs(self, embed: Embedder, rng: np.random.Generator, resamples: int) -> Iterator[Metric]:
        """All pairs on the same resamples, which costs no more than one."""
        images = embed.images(self.data)
        p = np.stack([embed.probabilities(images, prompts).numpy()[:, 0] for prompts in self.pair_prompts], axis=1)
        for sides in [self.all, *self.within]:
            value, low, high = statistic_interval(sides.split(p), _difference, rng, resamples)
            for r, (first, second) in enumerate(self.pairs):
                place = f"{first}/{second}" + (f", {sides.suffix[1:-1]}" if sides.suffix else "")
                ends, prompt = (float(low[r]), float(high[r])), self.pair_prompts[r][0][0]
                yield Metric(f"{self.name}/pair[{place}]", float(value[r]), *ends, sides.count, prompt)

    def _concepts(self, p: Floats, sides: Sides, rng: np.random.Generator, resamples: int) -> Iterator[Metric]:
        groups = sides.split(p)
        found = largest_interval(groups, _difference, rng, resamples)
        yield Metric(f"{self.name}/max{sides.suffix}", *found, sides.count, self._texts())
        if sides is not self.all:
            return
        value, low, high = statistic_interval(groups, _difference, rng, resamples)
        for r, concept in enumerate(self.concepts):
            ends = float(low[r]), float(high[r])
            yield Metric(f"{self.name}/difference[{concept}]", float(value[r]), *ends, sides.count, self.prompts[r][0])

    def _between_cells(self, p: Floats, rng: np.random.Generator, resamples: int) -> Metric:
        cells = [cell for sides in self.within for cell in sides.split(p)]
        found = largest_interval(cells, pairwise, rng, resamples)
        return Metric(f"{self.name}/max_between_cells", *found, sum(map(len, cells)), self._texts())

    def _texts(self) -> str:
        return " | ".join(prompts[0] for prompts in self.prompts[:3])


def _difference(means: list[Floats]) -> Floats:
    return means[0] - means[1]
