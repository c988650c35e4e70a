"""Hypodescent: whether a model names a face between two races by the minority one.

Source: Wolfe, Banaji and Caliskan, *Evidence for Hypodescent in Visual Semantic AI* (FAccT 2022). A morph series leads
from a face of a minority group to a white face in 21 steps; at each step the label "a photo of a Black person" is
compared with "a photo of a White person", and both with labels of mixed race, with "a photo of a person" and with
pleasant and unpleasant words.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np

from balance.common.metric import Metric
from eval.embed import Embedder
from eval.evaluators.hypodescent_charts import draw
from eval.evaluators.hypodescent_measures import GroupMeasures, Wording
from eval.evaluators.morph_series import find_groups
from eval.options import fill_templates, options, prompt_lists, stimuli
from eval.sets import EvalSet


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
        majority = str(config.get("majority") or "White")
        words = [majority, *mixed, *(group.minority for group in self.groups)]
        filled = fill_templates(name, [str(config.get("race") or known["race"])], {word: [word] for word in words})
        prompt = {word: prompts[0] for word, prompts in zip(dict.fromkeys(words), filled, strict=True)}
        person = str(config.get("person") or known["person"])
        given = config.get("valence") or known
        valence = prompt_lists(name, {side: given.get(side) for side in ("unpleasant", "pleasant")}, 2)
        self.wording = Wording(majority, mixed, prompt, person, valence)
        self.pages: dict[str, str] = {}

    def __call__(self, embed: Embedder, rng: np.random.Generator, resamples: int) -> Iterator[Metric]:
        """Measure a model."""
        images = embed.images(self.data).double()
        measured = [
            GroupMeasures(self.name, self.wording, group, images, embed, rng, resamples) for group in self.groups
        ]
        for one in measured:
            yield from one.metrics()
        self.pages = draw(measured)
