"""Embedding association tests: WEAT and SEAT on texts, iEAT on pictures, and across the two.

Whether targets X (flowers) lie nearer to attributes A (pleasant) than to B (unpleasant), compared with targets Y
(insects): the effect size d, its interval and a permutation p-value. Sources: see `eval/evaluators/eat_statistics.py`
for the statistics and `eval/stimuli/eat/` for the tests.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from html import escape
from typing import Any
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from balance.common.metric import Metric
from balance.errors import UserError
from eval.embed import Embedder
from eval.evaluators.eat_permutation import p_values
from eval.evaluators.eat_statistics import (
    Cosines,
    cosines,
    effect_interval,
    level2,
    level3,
    single_category,
    standardised_difference,
)
from eval.evaluators.eat_stimuli import MissingStimuli, Stimuli, Test, read_definitions, resolve
from eval.options import options, whole_number
from eval.report.charts import forest_chart
from eval.report.page import format_number
from eval.sets import EvalSet
from eval.stats import Floats, mean_interval

MANY_SINGLE = 200  # single-category tests of more stimuli than these give their mean alone


class Eat:
    """Association tests.

    Options:
        sets: role -> set; which roles there are is said by the tests (`pictures`, `valence`).
        tests: `ieat` (39 tests of pictures), `valence26` (26 of texts and pictures), `weat`, `seat` (17 each of texts);
            a YAML file, or its content. A list of these is joined.
        only: names of tests, to run no others.
        samples: partitions sampled for a p-value; by default what the tests say.
        levels: also give ML-EAT's levels 2 and 3.

    Metrics: `d[test]` with its bootstrap interval over the stimuli, `p[test]`, `mean_size` (mean of |d|) and
    `significant` (share of tests with p < 0.05); with `levels` more of each test. The interval is of the mean d
    of as many new stimuli of all four kinds, the p-value of the given ones with X and Y exchanged: they answer
    different questions.
    """

    partial = True

    def __init__(self, name: str, config: dict[str, Any], data: Mapping[str, EvalSet]) -> None:
        self.name, self.sets = name, data
        options(name, config, {"tests"}, {"only", "samples", "levels"})
        self.levels = bool(config.get("levels", False))
        self.tests: list[Test] = []
        self.samples: dict[str, int] = {}
        self.stimuli: dict[str, dict[str, Stimuli]] = {}
        self.skipped: list[str] = []
        self.pages: dict[str, str] = {}
        sources = config["tests"] if isinstance(config["tests"], (list, tuple)) else [config["tests"]]
        only = {str(test) for test in config.get("only") or ()}
        known: set[str] = set()
        for source in sources:
            known |= self._add(source, only, whole_number(name, "samples", config.get("samples"), 1_000_000_000))
        if only - known:
            raise UserError(f"eval.evaluators.{name}.only: there is no test {sorted(only - known)[0]!r}.")

    def _add(self, source: Any, only: set[str], samples: int | None) -> set[str]:
        """Take over the tests of a source whose stimuli are there; the names of all its tests."""
        found = read_definitions(source if isinstance(source, str) else dict(source))
        wanted = [test for test in found.tests.values() if not only or test.name in only]
        cache: dict[str, Stimuli | str] = {}
        absent: dict[str, list[str]] = {}
        for test in wanted:
            try:
                sides = {side: _resolve(cache, found, side, self.sets) for side in test.sides}
                self._check_sizes(test, sides)
            except MissingStimuli as error:
                absent.setdefault(str(error), []).append(test.name)
                continue
            if test.name in self.stimuli:
                raise UserError(f"eval.evaluators.{self.name}.tests defines the test {test.name!r} twice.")
            self.tests.append(test)
            self.stimuli[test.name] = sides
            self.samples[test.name] = samples or found.samples
        for cause, names in absent.items():
            some = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
            self.skipped.append(f"{len(names)} of {len(wanted)} tests of {found.name} are left out ({some}): {cause}.")
        self._note_counts(found.counts, cache)
        return set(found.tests)

    def _check_sizes(self, test: Test, sides: Mapping[str, Stimuli]) -> None:
        """Check that X and Y can be permuted: pictures that are missing leave a test out, texts are a mistake."""
        if test.y is None or len(sides[test.x]) == len(sides[test.y]):
            return
        sentence = (
            f"X and Y must have equally many stimuli, but {test.x} has {len(sides[test.x])} "
            f"and {test.y} {len(sides[test.y])}"
        )
        if any(sides[side].role for side in (test.x, test.y)):
            raise MissingStimuli(sentence)
        raise UserError(f"eval.evaluators.{self.name}, test {test.name}: {sentence}.")

    def _note_counts(self, counts: Mapping[str, int], cache: Mapping[str, Stimuli | str]) -> None:
        for folder, count in counts.items():
            there = cache.get(folder)
            if isinstance(there, Stimuli) and len(there) != count:
                self.skipped.append(f"{folder} has {len(there)} pictures, not the published {count}.")

    def __call__(self, embed: Embedder, rng: np.random.Generator, resamples: int) -> Iterator[Metric]:
        """Measure a model."""
        features = self._features(embed)
        pairs = [test for test in self.tests if test.y is not None]
        found = {test.name: self._cosines(test, features) for test in pairs}
        p = self._p_values(pairs, found)
        sizes: list[float] = []
        self.rows: list[dict[str, Any]] = []
        for test in pairs:
            yield from self._effect(test, found[test.name], p[test.name], resamples)
            sizes.append(abs(self.rows[-1]["value"]))
            if self.levels:
                yield from self._levels(test, found[test.name])
        if pairs:
            yield Metric(f"{self.name}/mean_size", float(np.mean(sizes)), count=len(pairs))
            share = float(np.mean([p[test.name] < 0.05 for test in pairs]))
            yield Metric(f"{self.name}/significant", share, count=len(pairs))
        for test in self.tests:
            if test.y is None:
                yield from self._single(test, features, rng, resamples)
        self.pages = _pages(self.rows)

    def _features(self, embed: Embedder) -> dict[tuple[str, str], Floats]:
        """Features of all stimuli, each kind of them asked for once."""
        pictures = {role: embed.images(data).numpy().astype(np.float64) for role, data in self.sets.items()}
        every = {(test, side): one for test, sides in self.stimuli.items() for side, one in sides.items()}
        texts = list(dict.fromkeys(text for one in every.values() for text in one.texts))
        known = embed.texts(texts).numpy().astype(np.float64) if texts else np.empty((0, 0))
        place = {text: row for row, text in enumerate(texts)}
        return {
            key: known[[place[text] for text in one.texts]] if one.role is None else pictures[one.role][one.rows]
            for key, one in every.items()
        }

    def _cosines(self, test: Test, features: Mapping[tuple[str, str], Floats]) -> Cosines:
        x, y, a, b = (features[test.name, side] for side in test.sides)
        return cosines(y, x, a, b) if test.turned else cosines(x, y, a, b)

    def _p_values(self, tests: list[Test], found: Mapping[str, Cosines]) -> dict[str, float]:
        """The p-values of all tests; those with as many samples and stimuli share their partitions."""
        values: dict[str, float] = {}
        for samples in sorted(set(self.samples.values())):
            names = [test.name for test in tests if self.samples[test.name] == samples]
            shares = p_values([(found[name].x, found[name].y) for name in names], samples)
            values.update(zip(names, shares, strict=True))
        return values

    def _effect(self, test: Test, found: Cosines, p: float, resamples: int) -> Iterator[Metric]:
        sides = self.stimuli[test.name]
        d = standardised_difference(found.x, found.y)
        # A generator of its own, so that an interval does not depend on which other tests run.
        rng = np.random.default_rng([0, crc32(test.name.encode())])
        names = [test.y or "", test.x, test.a, test.b] if test.turned else list(test.sides)
        low, high = effect_interval(found, rng, resamples, tuple(_clusters(sides[name]) for name in names))
        count = len(found.x) + len(found.y)
        what = f"{names[0]} against {names[1]}, {test.a} against {test.b}"
        self.rows.append(
            {
                "name": test.name,
                "order": test.order or "",
                "what": what,
                "label": _label(test, names),
                "value": d,
                "low": low,
                "high": high,
                "p": p,
            }
        )
        yield Metric(f"{self.name}/d[{test.name}]", d, low, high, count, what)
        yield Metric(f"{self.name}/p[{test.name}]", p, count=count, prompts=what)

    def _levels(self, test: Test, found: Cosines) -> Iterator[Metric]:
        """ML-EAT: level 2 for each group of targets, level 3 for each pair of groups."""
        x, y = (test.y, test.x) if test.turned else (test.x, test.y)
        for side, to_a, to_b in ((x, found.xa, found.xb), (y, found.ya, found.yb)):
            second = level2(to_a, to_b, self.samples[test.name])
            what = f"{side}: {test.a} against {test.b}"
            yield Metric(f"{self.name}/level2_d[{test.name}: {side}]", second.d, count=len(to_a), prompts=what)
            if second.p is not None:
                yield Metric(f"{self.name}/level2_p[{test.name}: {side}]", second.p, count=len(to_a), prompts=what)
            for attribute, cell in ((test.a, to_a), (test.b, to_b)):
                mean, spread = level3(cell)
                where = f"[{test.name}: {side}, {attribute}]"
                yield Metric(f"{self.name}/level3_mean{where}", mean, count=cell.size, prompts=f"{side}, {attribute}")
                yield Metric(f"{self.name}/level3_std{where}", spread, count=cell.size, prompts=f"{side}, {attribute}")

    def _single(
        self, test: Test, features: Mapping[tuple[str, str], Floats], rng: np.random.Generator, resamples: int
    ) -> Iterator[Metric]:
        """SC-EAT of each stimulus in X, and their mean."""
        x, a, b = (features[test.name, side] for side in test.sides)
        found = cosines(x, x, a, b)
        sizes = np.array([single_category(to_a, to_b) for to_a, to_b in zip(found.xa, found.xb, strict=True)])
        sizes = -sizes if test.turned else sizes
        what = f"{test.x}: {test.a} against {test.b}"
        value, low, high = mean_interval(np.sort(sizes), rng, resamples)
        yield Metric(f"{self.name}/single[{test.name}]", value, low, high, len(sizes), what)
        one = self.stimuli[test.name][test.x]
        if len(sizes) <= MANY_SINGLE:
            for label, size in zip(self._labels(one), sizes, strict=True):
                yield Metric(f"{self.name}/single[{test.name}: {label}]", float(size), count=1, prompts=what)

    def _labels(self, one: Stimuli) -> list[str]:
        if one.role is None or one.rows is None:
            return list(one.texts)
        return [self.sets[one.role].keys[row] for row in one.rows]


def _resolve(cache: dict[str, Stimuli | str], definitions: Any, side: str, sets: Mapping[str, EvalSet]) -> Stimuli:
    """Look a name up once; what is missing is missing for all tests."""
    if side not in cache:
        try:
            cache[side] = resolve(definitions, side, sets)
        except MissingStimuli as error:
            cache[side] = str(error)
    found = cache[side]
    if isinstance(found, str):
        raise MissingStimuli(found)
    return replace(found)


def _label(test: Test, names: list[str]) -> str:
    """What a chart calls a test: a number such as weat5b says nothing to most readers."""
    if test.order or "/" in names[0]:
        return test.name
    return f"{test.name}: {names[0]} – {names[1]}".replace("_", " ")


def _clusters(one: Stimuli) -> NDArray[np.intp] | None:
    return one.clusters


def _pages(rows: list[dict[str, Any]]) -> dict[str, str]:
    """The effect sizes as a chart and a table."""
    if not rows:
        return {}
    cells = "".join(
        f"<tr><td>{escape(row['name'])}</td><td>{escape(row['what'])}</td>"
        f"<td>{format_number(row['value'])}</td><td>[{format_number(row['low'])}, {format_number(row['high'])}]</td>"
        f"<td>{format_number(row['p'])}</td></tr>"
        for row in rows
    )
    table = (
        "<table><thead><tr><th>test</th><th>X against Y, A against B</th><th>d</th><th>95 % interval</th>"
        f"<th>p</th></tr></thead><tbody>{cells}</tbody></table>"
    )
    pages = {}
    for order in dict.fromkeys(row["order"] for row in rows):
        own = [row for row in rows if row["order"] == order]
        title = f"Effect sizes, {order}" if order else "Effect sizes"
        pages[title] = forest_chart(title, [row["label"] for row in own], [("d", own)], "d", zero=True)
    return {**pages, "association tests": table}
