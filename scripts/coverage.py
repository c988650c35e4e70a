"""How often the intervals of the evaluators hold the true value, by simulation, as a page.

    python scripts/coverage.py                       docs/coverage.md, about three minutes
    python scripts/coverage.py sets=20 resamples=100 out=<file>

Settings, as key=value: sets=400 (data sets drawn for each row), resamples=500 (of a bootstrap), out=docs/coverage.md.

Each row draws data sets from a world whose true value is known, and counts how often the interval that the evaluator
would give holds it.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

if __name__ == "__main__":  # the project's folder, whichever folder the command runs in
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np

from balance.common.terminal import say
from balance.errors import UserError
from balance.files import write_whole
from conf.app.command import run_command, split_options
from eval.evaluators.eat_statistics import Cosines, cosines, effect_interval, standardised_difference
from eval.stats import (
    Floats,
    correlation_interval,
    extreme_interval,
    largest_interval,
    mean_interval,
    pairwise,
    share_interval,
    size_interval,
    statistic_interval,
)

OPTIONS = {"sets": 400, "resamples": 500, "out": "docs/coverage.md"}
FRESH = 4_000  # sets of stimuli behind the mean d of an association test
Found = tuple[float, float, float]  # value, low, high

PAGE = """\
# How often intervals hold the true value

Made by `python scripts/coverage.py`: for each row data sets are drawn from a world whose true value is known, and the
interval that the evaluator would give is held against it. 0.95 is meant; more is an interval wider than need be, less
one that promises too much. {sets} data sets a row, so that a coverage of 0.95 is seen as {seen}; {resamples} resamples.

| figure | interval | what it is of | data | true value | coverage | mean width |
|---|---|---|---|---|---|---|
{table}

- **Percentile bootstrap**: resampled images (or series) by the percentiles of what they give; for means, differences of
  means and correlations.
- **Exact binomial** (Clopper and Pearson): shares, down to none at all. It covers at least 0.95 by construction. Of
  captions it counts as many as independent ones would vary as much. For the size of a share's distance from 1/2, which
  is what `share` reports, the interval begins at 0 where 1/2 is possible.
- **Simultaneous bootstrap**: what is the largest of several has an interval from intervals of all of them that hold
  together. It begins at 0 where nothing beyond chance is seen, and is wide on the upper side, since another difference
  than the one seen may be the largest.
- **Centred bootstrap**: association tests. The interval is of the mean d that as many other stimuli would give. The d
  of endlessly many stimuli is larger, since each further attribute takes noise out of the spread that d is divided by:
  do not compare d of tests with other numbers of stimuli.

No interval here knows of another training run ([zoo](zoo.md)), of other prompts, or of labels that err.
"""


@dataclass
class Case:
    """A row of the table.

    Attributes:
        what: the figure.
        interval: how its interval is made.
        covers: what the interval is of.
        size: how large the data sets are, in words.
        truth: the true value.
        draw: draws a data set and gives value, low and high.
    """

    what: str
    interval: str
    covers: str
    size: str
    truth: float
    draw: Callable[[np.random.Generator, int], Found]


def main(arguments: list[str]) -> int:
    """Simulate all rows and write the page."""
    options, rest = split_options(arguments, OPTIONS)
    if rest:
        raise UserError(f"{rest[0]} is not a setting; these are {', '.join(OPTIONS)}.")
    sets, resamples = int(options["sets"]), int(options["resamples"])
    if sets < 1 or resamples < 20:
        raise UserError(f"sets={sets} and resamples={resamples}: give at least 1 and 20.")
    rows = []
    for case in cases():
        rows.append((case, *simulate(case, sets, resamples)))
        say(f"{case.what}, {case.size}, true value {case.truth:.2f}: {rows[-1][1]:.3f}")
    say(f"Page: {write_whole(Path(options['out']), page(rows, sets, resamples))}")
    return 0


def simulate(case: Case, sets: int, resamples: int, seed: int = 0) -> tuple[float, float]:
    """How often the interval holds the true value, and its mean width."""
    rng = np.random.default_rng(seed)
    found = np.array([case.draw(rng, resamples)[1:] for _ in range(sets)])
    rounding = 1e-12
    covered = (found[:, 0] <= case.truth + rounding) & (case.truth - rounding <= found[:, 1])
    return float(covered.mean()), float((found[:, 1] - found[:, 0]).mean())


def cases() -> list[Case]:
    """All rows: worlds with a bias and without, small sets and larger ones."""
    boot, exact, together = "percentile bootstrap", "exact binomial", "simultaneous bootstrap"
    images = "other images of this kind"
    found = [
        Case("parity: mean_parity", boot, images, f"{n} images", bias, partial(_parity, n=n, bias=bias))
        for n, bias in ((50, 0.0), (200, 0.0), (200, 0.3))
    ]
    found += [
        Case("parity: share", f"{exact}, of its size", images, f"{n} images", abs(p - 0.5), partial(_share, n=n, p=p))
        for n, p in ((50, 0.5), (200, 0.5), (200, 0.52), (200, 0.7))
    ]
    found += [
        Case("parity: rb of 4 groups", together, images, "200 images", bias, partial(_rb, n=200, bias=bias))
        for bias in (0.0, 0.1)
    ]
    found += [
        Case("association: max of 10 concepts", together, images, f"{n} + {n} faces", d, partial(_ab, n=n, d=d))
        for n, d in ((50, 0.0), (200, 0.0), (200, 0.02), (200, 0.1))
    ]
    found += [
        Case("association: difference of a concept", boot, images, "200 + 200 faces", 0.0, partial(_difference, n=200)),
        Case("association: max_between_cells", together, images, "8 cells of 50", 0.0, partial(_cells, n=50)),
    ]
    found += [
        Case("zeroshot: top1", exact, images, f"{n} images", p, partial(_accuracy, n=n, p=p))
        for n, p in ((200, 0.01), (200, 0.1), (200, 0.9), (1000, 0.01))
    ]
    found += [
        Case("zeroshot: mean_per_class", boot, images, "10 classes of 20", 0.7, partial(_per_class, n=20, p=0.7)),
        Case("zeroshot: worst_group", together, images, "5 groups of 100", 0.8, partial(_worst, n=100)),
        Case("zeroshot: group_gap", together, images, "5 groups of 100", 0.0, partial(_gap, n=100)),
        Case(
            "retrieval: text_to_image",
            f"{exact}, by image",
            images,
            "200 images of 5 captions",
            0.2,
            partial(_recall, n=200),
        ),
        Case("hypodescent: share at equal mixing", boot, "other series", "60 series", 0.5, partial(_mixing, n=60)),
        Case("correlation (default race)", boot, "other series", "60 series of 21", 0.4, partial(_correlated, n=60)),
    ]
    for size, lean, wide in ((8, 0.7, 8), (25, 0.7, 8), (8, 1.2, 128), (25, 0.9, 128)):
        rng = np.random.default_rng(1)
        fresh = np.array([_d(_stimuli(rng, size, lean, wide)) for _ in range(FRESH)])
        place = f"4 sets of {size}, {wide} dimensions"
        few = partial(_association_test, size=size, lean=lean, wide=wide)
        centred = "centred bootstrap"
        found.append(Case("eat: d", centred, "the mean d of as many other stimuli", place, float(fresh.mean()), few))
        found.append(
            Case("eat: d", centred, "d of one other set (not what it is of)", place, 0.0, partial(_one_other, few))
        )
        endless = _d(_stimuli(rng, 2_000, lean, wide))
        found.append(Case("eat: d", centred, "d of endless stimuli (not what it is of)", place, endless, few))
    return found


# ---------------------------------------------------------------------- worlds: value, low and high of a data set each


def _parity(rng: np.random.Generator, resamples: int, n: int, bias: float) -> Found:
    """p(man) - p(woman) of a model that is sure of most images."""
    p = rng.beta(0.5 * (1 + bias), 0.5 * (1 - bias), n)
    return mean_interval(2 * p - 1, rng, resamples)


def _share(rng: np.random.Generator, resamples: int, n: int, p: float) -> Found:
    share, low, high = share_interval((rng.random(n) < p).astype(float))
    return abs(share - 0.5), *size_interval(low - 0.5, high - 0.5)


def _rb(rng: np.random.Generator, resamples: int, n: int, bias: float) -> Found:
    mean = np.array([0.25 + bias, *[0.25 - bias / 3] * 3])
    return largest_interval([rng.dirichlet(2 * mean, n)], lambda means: means[0] - 0.25, rng, resamples)


def _faces(rng: np.random.Generator, n: int, d: float) -> list[Floats]:
    """Probabilities of 10 concepts on two sides, of which one differs by d."""
    even, leaning = np.full(10, 0.1), np.array([0.1 + d, *[0.1 - d / 9] * 9])
    return [rng.dirichlet(3 * leaning, n), rng.dirichlet(3 * even, n)]


def _apart(means: list[Floats]) -> Floats:
    return means[0] - means[1]


def _ab(rng: np.random.Generator, resamples: int, n: int, d: float) -> Found:
    return largest_interval(_faces(rng, n, d), _apart, rng, resamples)


def _difference(rng: np.random.Generator, resamples: int, n: int) -> Found:
    value, low, high = statistic_interval(_faces(rng, n, 0.0), _apart, rng, resamples)
    return float(value[0]), float(low[0]), float(high[0])


def _cells(rng: np.random.Generator, resamples: int, n: int) -> Found:
    cells = [side for _ in range(4) for side in _faces(rng, n, 0.0)]
    return largest_interval(cells, pairwise, rng, resamples)


def _accuracy(rng: np.random.Generator, resamples: int, n: int, p: float) -> Found:
    return share_interval((rng.random(n) < p).astype(float))


def _per_class(rng: np.random.Generator, resamples: int, n: int, p: float) -> Found:
    groups = [(rng.random((n, 1)) < p).astype(float) for _ in range(10)]
    value, low, high = statistic_interval(groups, lambda means: np.mean(means, axis=0), rng, resamples)
    return float(value[0]), float(low[0]), float(high[0])


def _groups(rng: np.random.Generator, n: int) -> list[Floats]:
    return [(rng.random((n, 1)) < 0.8).astype(float) for _ in range(5)]


def _worst(rng: np.random.Generator, resamples: int, n: int) -> Found:
    return extreme_interval(_groups(rng, n), rng, resamples)


def _gap(rng: np.random.Generator, resamples: int, n: int) -> Found:
    return largest_interval(_groups(rng, n), pairwise, rng, resamples)


def _recall(rng: np.random.Generator, resamples: int, n: int) -> Found:
    """Five captions an image, hit more or less together."""
    hits = (rng.random((n, 5)) < rng.beta(0.2, 0.8, n)[:, None]).astype(float)
    return share_interval(hits.ravel(), np.repeat(np.arange(n), 5))


def _mixing(rng: np.random.Generator, resamples: int, n: int) -> Found:
    return mean_interval((rng.random(n) < 0.5).astype(float), rng, resamples)


def _correlated(rng: np.random.Generator, resamples: int, n: int) -> Found:
    """Two similarities over the steps of morph series, correlated by 0.4; half of each belongs to the whole series."""
    series, steps = rng.normal(size=(2, n, 1)), rng.normal(size=(2, n, 21))
    x, y = series[0] + steps[0], 0.4 * (series[0] + steps[0]) + np.sqrt(1 - 0.16) * (series[1] + steps[1])
    found = correlation_interval(x, y, rng, resamples)
    assert found is not None
    return found


def _stimuli(rng: np.random.Generator, size: int, lean: float, wide: int) -> Cosines:
    """X and A lean to one side of a direction, Y and B to the other."""
    sets = [rng.normal(size=(size, wide)) for _ in range(4)]
    for one, side in zip(sets, (lean, -lean, lean, -lean), strict=True):
        one[:, 0] += side
    return cosines(*sets)


def _d(found: Cosines) -> float:
    return standardised_difference(found.x, found.y)


def _association_test(rng: np.random.Generator, resamples: int, size: int, lean: float, wide: int) -> Found:
    found = _stimuli(rng, size, lean, wide)
    return _d(found), *effect_interval(found, rng, resamples)


def _one_other(test: "partial[Found]", rng: np.random.Generator, resamples: int) -> Found:
    """The interval less the d of another set of stimuli, so that it should hold 0."""
    value, low, high = test(rng, resamples)
    other = _d(_stimuli(rng, test.keywords["size"], test.keywords["lean"], test.keywords["wide"]))
    return value - other, low - other, high - other


def page(rows: list[tuple[Case, float, float]], sets: int, resamples: int) -> str:
    """The page as Markdown."""
    table = [
        f"| {case.what} | {case.interval} | {case.covers} | {case.size} "
        f"| {'drawn anew' if 'one other' in case.covers else f'{case.truth:.3f}'} | {covered:.3f} | {width:.3f} |"
        for case, covered, width in rows
    ]
    seen = f"{0.95 - _noise(sets):.3f} to {min(0.95 + _noise(sets), 1):.3f}"
    return PAGE.format(sets=sets, resamples=resamples, seen=seen, table="\n".join(table))


def _noise(sets: int) -> float:
    return 1.96 * float(np.sqrt(0.95 * 0.05 / sets))


if __name__ == "__main__":
    run_command(main, __doc__, keys=False)
