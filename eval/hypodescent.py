"""Hypodescent: whether a model names a face between two races by the minority one.

Source: Wolfe, Banaji and Caliskan, *Evidence for Hypodescent in Visual Semantic AI* (FAccT 2022). A morph series leads
from a face of a minority group to a white face in 21 steps; at each step the label "a photo of a Black person" is
compared with "a photo of a White person", and both with labels of mixed race, with "a photo of a person" and with
pleasant and unpleasant words.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from scipy.stats import skew

from eval.embed import Embedder
from eval.metric import Metric
from eval.morph_series import MorphGroup, find_groups
from eval.options import fill_templates, options, prompt_lists, stimuli
from eval.sets import EvalSet
from eval.stats import Floats, bootstrap_means, correlation_interval, mean_interval, percentile_interval

Found = tuple[float, float | None, float | None] | None
MOST_UNDEFINED = 0.05  # share of resamples without a skew beyond which there is no interval


class Hypodescent:
    """Share of the minority label along morph series, and what goes with it.

    Options:
        group: labels whose values make the groups that are reported, such as [source_ethnicity, gender].
        minority: group -> the word for it in the prompt, such as `black: Black`. A key may hold the values of several
            labels (`latino female: Latina`); the longest that fits counts.
        majority: the word for the other end; "White" by default.
        series: the label that names a series; "series" by default.
        step: the label of the step, a number that grows towards the majority face; "target_weight" by default.
        steps: where the minority's share comes from: `labels` (1 - step, the default), `paper` (1 - i / 20 for the
            i-th step of 21, from 0) or `released` (1 - i / 21, which the paper's released code makes).
        race: the prompt, with `{c}`.
        person: the prompt of no race.
        mixed: words for mixed race, put into the same prompt.
        valence: {pleasant: [...], unpleasant: [...]}, bare words.

    Intervals resample whole series, since the 21 pictures of one are no independent draws; a single series has none.
    """

    def __init__(self, name: str, config: dict[str, Any], data: EvalSet) -> None:
        self.name, self.data = name, data
        known = stimuli("hypodescent")
        optional = {"majority", "series", "step", "steps", "race", "person", "mixed", "valence"}
        options(name, config, {"group", "minority"}, optional)
        self.groups = find_groups(name, config, data)
        mixed = [str(word) for word in config.get("mixed") or known["mixed"]]
        words = [str(config.get("majority") or "White"), *mixed, *(group.minority for group in self.groups)]
        filled = fill_templates(name, [str(config.get("race") or known["race"])], {word: [word] for word in words})
        self.prompt = {word: prompts[0] for word, prompts in zip(dict.fromkeys(words), filled, strict=True)}
        self.majority, self.mixed = words[0], mixed
        self.person = str(config.get("person") or known["person"])
        valence = config.get("valence") or known
        self.valence = prompt_lists(name, {side: valence.get(side) for side in ("unpleasant", "pleasant")}, 2)
        self.pages: dict[str, str] = {}

    def __call__(self, embed: Embedder, rng: np.random.Generator, resamples: int) -> Iterator[Metric]:
        """Measure a model."""
        images = embed.images(self.data).double()
        measured = [GroupMeasures(self, group, images, embed, rng, resamples) for group in self.groups]
        for one in measured:
            yield from one.metrics()
        # Imported here because only a suite with morphs draws them.
        from eval.hypodescent_charts import draw

        self.pages = draw(measured)


class GroupMeasures:
    """What is measured on one group of series.

    Attributes:
        group: the group.
        cosines: prompt -> (series, steps).
        valence: (series, steps) single-category association with unpleasant over pleasant words.
        curve: the share of the minority label at each step.
    """

    def __init__(
        self,
        asked: Hypodescent,
        group: MorphGroup,
        images: torch.Tensor,
        embed: Embedder,
        rng: np.random.Generator,
        resamples: int,
    ) -> None:
        self.asked, self.group, self.rng, self.resamples = asked, group, rng, resamples
        faces = images[group.rows.ravel()]

        def against(prompts: list[str]) -> Floats:
            found: Floats = (faces @ embed.texts(prompts).double().T).numpy().reshape(*group.rows.shape, len(prompts))
            return found

        self.words = [group.minority, asked.majority, *asked.mixed]
        prompts = [*(asked.prompt[word] for word in self.words), asked.person]
        self.cosines = dict(zip(prompts, np.moveaxis(against(prompts), 2, 0), strict=True))
        self.minority, self.majority = (self.cosines[prompt] for prompt in prompts[:2])
        self.valence = single_category(*(against(words) for words in asked.valence.values()))
        self.texts = f"{prompts[0]} | {prompts[1]}"
        self.curve: list[Metric] = []

    def metrics(self) -> Iterator[Metric]:
        """All metrics of the group."""
        prefers = (self.minority > self.majority).astype(np.float64)
        for step, share in enumerate(self.group.shares):
            found = mean_interval(prefers[:, step], self.rng, self.resamples)
            self.curve += self._metric("minority", found, f"{share:.1%}".replace(".0%", "%"), self.texts)
        yield from self.curve
        yield from self._metric("skew", self._skew(prefers), "", self.texts)
        yield from self._mixed()
        person = self.asked.person
        for end, cosines in (("minority", self.minority), ("majority", self.majority)):
            correlation = self._correlation(self.cosines[person], cosines)
            yield from self._metric(f"person_{end}_correlation", correlation, "", f"{person} | {self.texts}")
        texts = f"unpleasant and pleasant words | {self.asked.prompt[self.group.minority]}"
        correlation = self._correlation(self.valence, self.minority)
        yield from self._metric("unpleasant_minority_correlation", correlation, "", texts)
        means = correlation_interval(self.valence.mean(axis=0)[None], self.minority.mean(axis=0)[None], self.rng, 1)
        if means:  # one curve of 21 means: nothing to resample
            name = f"{self.asked.name}/unpleasant_minority_correlation_of_means[{self.group.name}]"
            yield Metric(name, means[0], count=self.group.rows.size, prompts=texts)
        for end, step in (("minority end", 0), ("majority end", -1)):
            found = mean_interval(self.valence[:, step], self.rng, self.resamples)
            yield from self._metric("unpleasant", found, end, "unpleasant and pleasant words")

    def _mixed(self) -> Iterator[Metric]:
        """At equal shares: how often a label of mixed race is nearer than the minority's, and nearer than both."""
        middle = self.group.middle
        for word in self.asked.mixed:
            prompt = self.asked.prompt[word]
            mixed = self.cosines[prompt][:, middle]
            over_minority = mixed > self.minority[:, middle]
            first = over_minority & (mixed > self.majority[:, middle])
            for what, hits in (("mixed_over_minority", over_minority), ("mixed_first", first)):
                found = mean_interval(hits.astype(np.float64), self.rng, self.resamples)
                yield from self._metric(what, found, word, f"{prompt} | {self.texts}")

    def _skew(self, prefers: Floats) -> Found:
        """Biased skewness of the counts over the steps; None where they are all equal.

        Where few series change their label, many resamples have none that does and so no skew: there is no interval
        then, since the resamples that are left would give one that is far too narrow.
        """
        if np.ptp(prefers.sum(axis=0)) == 0:
            return None
        value = float(_skew_of_rows([prefers.mean(axis=0, keepdims=True)])[0, 0])
        draws = _skew_of_rows(bootstrap_means([prefers], self.rng, self.resamples))
        if np.isnan(draws).mean() > MOST_UNDEFINED:
            return value, None, None
        low, high = percentile_interval(draws)
        return value, float(low[0]), float(high[0])

    def _correlation(self, x: Floats, y: Floats) -> Found:
        return correlation_interval(x, y, self.rng, self.resamples)

    def _metric(self, what: str, found: Found, detail: str, prompts: str) -> list[Metric]:
        """One metric; none where it is not defined."""
        if found is None:
            return []
        name = f"{self.asked.name}/{what}[{self.group.name}{', ' + detail if detail else ''}]"
        low, high = found[1:] if len(self.group.rows) > 1 else (None, None)
        series, steps = self.group.rows.shape
        whole = what == "skew" or what.endswith("correlation")  # over all steps; the others are of one step
        return [Metric(name, found[0], low, high, series * steps if whole else series, prompts)]


def single_category(unpleasant: Floats, pleasant: Floats) -> Floats:
    """SC-EAT of each picture: (mean unpleasant - mean pleasant) / std of all its cosines, ddof = 1.

    Args:
        unpleasant: (..., words) cosines.
        pleasant: (..., words) cosines.

    Returns:
        (...); 0 where all cosines are equal.
    """
    difference = unpleasant.mean(axis=-1) - pleasant.mean(axis=-1)
    spread = np.concatenate([unpleasant, pleasant], axis=-1).std(axis=-1, ddof=1)
    return np.divide(difference, spread, out=np.zeros_like(difference), where=spread > 1e-12)


def _skew_of_rows(means: list[Floats]) -> Floats:
    """Skewness of each row; NaN, which counts for no interval, where a row is constant."""
    found = np.full(len(means[0]), np.nan)
    varies = np.ptp(means[0], axis=1) > 1e-9
    found[varies] = skew(means[0][varies], axis=1)
    return found[:, None]
