"""What hypodescent is measured by on one group of morph series."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from scipy.stats import skew

from balance.common.metric import Metric
from eval.embed import Embedder
from eval.evaluators.morph_series import MorphGroup
from eval.stats import Floats, bootstrap_means, correlation_interval, mean_interval, percentile_interval

Found = tuple[float, float | None, float | None] | None
MOST_UNDEFINED = 0.05  # share of resamples without a skew beyond which there is no interval


@dataclass(frozen=True)
class Wording:
    """The texts that faces are compared with.

    Attributes:
        majority: the word for the majority.
        mixed: words for mixed race.
        prompt: word -> its prompt.
        person: the prompt of no race.
        valence: unpleasant and pleasant words, in this order.
    """

    majority: str
    mixed: list[str]
    prompt: dict[str, str]
    person: str
    valence: dict[str, list[str]]


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
        evaluator: str,
        wording: Wording,
        group: MorphGroup,
        images: torch.Tensor,
        embed: Embedder,
        rng: np.random.Generator,
        resamples: int,
    ) -> None:
        self.evaluator, self.wording, self.group, self.rng, self.resamples = evaluator, wording, group, rng, resamples
        faces = images[group.rows.ravel()]

        def against(prompts: list[str]) -> Floats:
            found: Floats = (faces @ embed.texts(prompts).double().T).numpy().reshape(*group.rows.shape, len(prompts))
            return found

        self.words = [group.minority, wording.majority, *wording.mixed]
        prompts = [*(wording.prompt[word] for word in self.words), wording.person]
        self.cosines = dict(zip(prompts, np.moveaxis(against(prompts), 2, 0), strict=True))
        self.minority, self.majority = (self.cosines[prompt] for prompt in prompts[:2])
        self.valence = single_category(*(against(words) for words in wording.valence.values()))
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
        person = self.wording.person
        for end, cosines in (("minority", self.minority), ("majority", self.majority)):
            correlation = self._correlation(self.cosines[person], cosines)
            yield from self._metric(f"person_{end}_correlation", correlation, "", f"{person} | {self.texts}")
        texts = f"unpleasant and pleasant words | {self.wording.prompt[self.group.minority]}"
        correlation = self._correlation(self.valence, self.minority)
        yield from self._metric("unpleasant_minority_correlation", correlation, "", texts)
        means = correlation_interval(self.valence.mean(axis=0)[None], self.minority.mean(axis=0)[None], self.rng, 1)
        if means:  # one curve of 21 means: nothing to resample
            name = f"{self.evaluator}/unpleasant_minority_correlation_of_means[{self.group.name}]"
            yield Metric(name, means[0], count=self.group.rows.size, prompts=texts)
        for end, step in (("minority end", 0), ("majority end", -1)):
            found = mean_interval(self.valence[:, step], self.rng, self.resamples)
            yield from self._metric("unpleasant", found, end, "unpleasant and pleasant words")

    def _mixed(self) -> Iterator[Metric]:
        """At equal shares: how often a label of mixed race is nearer than the minority's, and nearer than both."""
        middle = self.group.middle
        for word in self.wording.mixed:
            prompt = self.wording.prompt[word]
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
        name = f"{self.evaluator}/{what}[{self.group.name}{', ' + detail if detail else ''}]"
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
