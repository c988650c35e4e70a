"""Association bias of a model: whether its scores for concepts differ between groups of faces that are otherwise alike.

Source: *CLIP the Bias* (Alabdulmohsin et al., ICLR 2024): AB = max_r |E[f_r | s = 1] - E[f_r | s = 0]|, with f_r the
softmax probability of concept r (an occupation) among all concepts.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np

from balance.errors import UserError
from eval.embed import Embedder
from eval.metric import Metric
from eval.options import fill_templates, need_field, options, words_of
from eval.sets import EvalSet
from eval.stats import Floats, statistic_interval


class Association:
    """AB over labelled faces, its maximum and per concept.

    Options:
        label: the JSON field of the group, such as `gender`.
        positive, negative: its two values that are compared.
        concepts: names, or name -> words.
        templates: prompts with `{c}`; "a photo of a {c}" by default.
        pairs: pairs of concepts compared with each other alone, each by a softmax over the two.

    The interval of `max` is a percentile interval of a maximum, which lies above zero by construction: compare two
    models by their intervals, not one model with zero.
    """

    def __init__(self, name: str, config: dict[str, Any], data: EvalSet) -> None:
        self.name, self.data = name, data
        options(name, config, {"label", "positive", "negative"}, {"concepts", "templates", "pairs"})
        need_field(name, data, config["label"])
        templates = config.get("templates") or ["a photo of a {c}"]
        self.concepts = words_of(config.get("concepts") or [])
        self.pairs = [tuple(map(str, pair)) for pair in config.get("pairs") or []]
        if len(self.concepts) == 1 or not (self.concepts or self.pairs):
            raise UserError(f"eval.evaluators.{name} needs at least two concepts, or pairs of them.")
        self.prompts = fill_templates(name, templates, self.concepts)
        self.pair_prompts = [fill_templates(name, templates, {c: [c] for c in pair}) for pair in self.pairs]
        self.rows = []
        for side in ("positive", "negative"):
            rows = [i for i, label in enumerate(data.labels) if label.get(config["label"]) == config[side]]
            if not rows:
                raise UserError(
                    f"eval.evaluators.{name}: no sample of the set {data.name} has {config['label']}={config[side]}; "
                    f"there are {sorted({str(label.get(config['label'])) for label in data.labels})}."
                )
            self.rows.append(np.array(rows))

    def __call__(self, embed: Embedder, rng: np.random.Generator, resamples: int) -> Iterator[Metric]:
        """Measure a model."""
        images = embed.images(self.data)
        count = sum(map(len, self.rows))
        if self.concepts:
            p = embed.probabilities(images, self.prompts).numpy()
            groups = [p[rows] for rows in self.rows]
            value, low, high = statistic_interval(groups, _largest, rng, resamples)
            texts = " | ".join(prompts[0] for prompts in self.prompts[:3])
            yield Metric(f"{self.name}/max", float(value[0]), float(low[0]), float(high[0]), count, texts)
            value, low, high = statistic_interval(groups, _difference, rng, resamples)
            for r, concept in enumerate(self.concepts):
                name = f"{self.name}/difference[{concept}]"
                yield Metric(name, float(value[r]), float(low[r]), float(high[r]), count, self.prompts[r][0])
        for (first, second), prompts in zip(self.pairs, self.pair_prompts, strict=True):
            p = embed.probabilities(images, prompts).numpy()[:, :1]
            value, low, high = statistic_interval([p[rows] for rows in self.rows], _difference, rng, resamples)
            name = f"{self.name}/pair[{first}/{second}]"
            yield Metric(name, float(value[0]), float(low[0]), float(high[0]), count, prompts[0][0])


def _difference(means: list[Floats]) -> Floats:
    return means[0] - means[1]


def _largest(means: list[Floats]) -> Floats:
    return np.abs(means[0] - means[1]).max(axis=1, keepdims=True)
