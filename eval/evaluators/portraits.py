"""Generated portraits: whether a text-to-image model puts into faces what people would read from them.

Source: Wolfe, Dangol, Hiniker and Howe (2024). A linear predictor of each human rating is fitted on features of rated
faces, and applied to portraits generated for the positive and for the negative prompt of the attribute: F1 says how
well the sign of the prediction tells the two. The features are those of the model that is being evaluated.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from balance.common.metric import Metric
from balance.errors import UserError
from eval.embed import Embedder
from eval.evaluators.impressions import spearman
from eval.evaluators.impressions_ratings import Attribute, built_in_attributes, mean_ratings
from eval.evaluators.impressions_regression import paired_contrast
from eval.options import options
from eval.sets import EvalSet
from eval.stats import Floats, percentile_interval

ALPHAS = tuple(10.0**power for power in range(-4, 5))  # of features of length 1, relative to their variance
SIDES = ("positive", "negative")


class Portraits:
    """F1 of predicted impressions of generated portraits, and the contrast of two groups of them.

    Options:
        sets: `faces`, rated faces; `portraits`, a folder with `<attribute>/positive/` and `<attribute>/negative/`.
        ratings: CSV of the faces' mean ratings, as for the kind `impressions`.
        predictor: `ridge` (the default: centred, its strength chosen by leave-one-out) or `paper` (ordinary least
            squares without intercept, which interpolates where there are more features than faces).
        contrast: two attributes whose positive portraits are contrasted; by default [white, black].

    Metrics: `f1[attribute]`, `mean_f1`, `reliability_correlation` (Spearman of F1 with the reliability of people's
    ratings) with its p, and `contrast_d[attribute]`, `contrast_p[attribute]` (paired t-test, in the order of the files'
    names: meant for portraits from the same seeds).
    """

    def __init__(self, name: str, config: dict[str, Any], data: Mapping[str, EvalSet]) -> None:
        self.name = name
        options(name, config, {"ratings", "sets"}, {"predictor", "contrast"})
        if set(data) != {"faces", "portraits"}:
            raise UserError(f"eval.evaluators.{name}.sets must name `faces` and `portraits`; it names {sorted(data)}.")
        self.faces, self.portraits = data["faces"], data["portraits"]
        self.predictor = config.get("predictor") or "ridge"
        if self.predictor not in ("ridge", "paper"):
            raise UserError(f"eval.evaluators.{name}.predictor={self.predictor} is neither ridge nor paper.")
        self.skipped: list[str] = []
        self.ratings: Floats | None = None
        if not Path(config["ratings"]).is_file():
            self.skipped.append(f"there is no {config['ratings']}, so that nothing is measured.")
            return
        self.attributes = built_in_attributes()
        self.rows = {a.name: self._sides(a) for a in self.attributes}
        found = [a.name for a in self.attributes if all(map(len, self.rows[a.name]))]
        half = [a.name for a in self.attributes if sum(map(bool, map(len, self.rows[a.name]))) == 1]
        if half:
            raise UserError(
                f"eval.evaluators.{name}: the set {self.portraits.name} has portraits for one side of {half[0]} only; "
                f"it needs {half[0]}/positive/ and {half[0]}/negative/."
            )
        if not found:
            raise UserError(
                f"eval.evaluators.{name}: the set {self.portraits.name} has no folder <attribute>/positive/ with an "
                f"attribute such as {self.attributes[0].name}."
            )
        self.shown = [a for a in self.attributes if a.name in found]
        if len(found) < len(self.attributes):
            self.skipped.append(f"portraits are there for {len(found)} of {len(self.attributes)} attributes.")
        self._read_contrast(config.get("contrast") or ["white", "black"])
        self.ratings = mean_ratings(Path(config["ratings"]), self.faces, [a.name for a in self.attributes])

    def _sides(self, attribute: Attribute) -> tuple[list[int], list[int]]:
        sides = []
        for side in SIDES:
            prefix = f"{attribute.name}/{side}/"
            rows = [row for row, key in enumerate(self.portraits.keys) if key.startswith(prefix)]
            sides.append(sorted(rows, key=lambda row: self.portraits.keys[row]))
        return sides[0], sides[1]

    def _read_contrast(self, names: Any) -> None:
        """The rows of the two groups to contrast, or a note that they can't be."""
        self.contrast: tuple[list[int], list[int]] | None = None
        one, other = (self.rows.get(str(each), ([], []))[0] for each in names)
        if not one or not other:
            self.skipped.append(f"there are no portraits of {names[0]} and {names[1]} to contrast.")
        elif len(one) != len(other):
            self.skipped.append(
                f"{names[0]} and {names[1]} have {len(one)} and {len(other)} portraits, which can't be paired."
            )
        else:
            self.contrast = (one, other)

    def __call__(self, embed: Embedder, rng: np.random.Generator, resamples: int) -> Iterator[Metric]:
        """Measure a model."""
        if self.ratings is None:
            return
        faces = embed.images(self.faces).numpy().astype(np.float64)
        portraits = embed.images(self.portraits).numpy().astype(np.float64)
        predicted = predict(faces, self.ratings, portraits, self.predictor)
        column = {a.name: k for k, a in enumerate(self.attributes)}
        scores = []
        for a in self.shown:
            sides = [predicted[rows, column[a.name]] > 0 for rows in self.rows[a.name]]
            value, low, high = f1_interval(sides[0], sides[1], rng, resamples)
            scores.append(value)
            prompts = f"{a.positive} | {a.negative}"
            yield Metric(f"{self.name}/f1[{a.name}]", value, low, high, len(sides[0]) + len(sides[1]), prompts)
        yield Metric(f"{self.name}/mean_f1", float(np.mean(scores)), count=len(scores))
        irr = [a.reliability for a in self.shown if a.reliability is not None]
        if len(irr) == len(scores) > 2:
            rho, p = spearman(np.array(irr), np.array(scores))
            yield Metric(f"{self.name}/reliability_correlation", rho, count=len(irr))
            yield Metric(f"{self.name}/reliability_correlation_p", p, count=len(irr))
        if self.contrast is not None:
            one, other = self.contrast
            for a in self.attributes:
                found = paired_contrast(predicted[one, column[a.name]], predicted[other, column[a.name]])
                yield Metric(f"{self.name}/contrast_d[{a.name}]", found.d, count=2 * found.count)
                yield Metric(f"{self.name}/contrast_p[{a.name}]", found.p, count=2 * found.count)


def predict(faces: Floats, ratings: Floats, portraits: Floats, predictor: str) -> Floats:
    """Predicted ratings of portraits, (n, k), above 0 for more of an attribute.

    Args:
        faces: (m, d) features of rated faces.
        ratings: (m, k) their mean ratings.
        portraits: (n, d) features.
        predictor: `ridge`: of ratings about their mean from features about their mean, so that 0 is the average face;
            `paper`: least squares through the origin on the raw ratings, divided by the length of the weights.
    """
    if predictor == "paper":
        weights = np.linalg.lstsq(faces, ratings, rcond=None)[0]
        projected: Floats = portraits @ weights / np.linalg.norm(weights, axis=0)
        return projected
    from sklearn.linear_model import RidgeCV

    centre = faces.mean(axis=0)
    variance = float(((faces - centre) ** 2).sum(axis=1).mean())
    fit = RidgeCV(alphas=[alpha * variance * len(faces) / faces.shape[1] for alpha in ALPHAS], alpha_per_target=True)
    fit.fit(faces - centre, ratings - ratings.mean(axis=0))
    return np.asarray(fit.predict(portraits - centre), dtype=np.float64).reshape(len(portraits), -1)


def f1_interval(positive: Any, negative: Any, rng: np.random.Generator, resamples: int) -> tuple[float, float, float]:
    """F1 of predictions on portraits of the positive (n,) and the negative (m,) prompt, with a bootstrap interval."""
    from sklearn.metrics import f1_score

    truth = np.r_[np.ones(len(positive)), np.zeros(len(negative))]
    value = f1_score(truth, np.r_[positive, negative].astype(float), zero_division=0.0)
    hits = rng.binomial(len(positive), np.mean(positive), size=resamples)
    false = rng.binomial(len(negative), np.mean(negative), size=resamples)
    low, high = percentile_interval(2 * hits / (len(positive) + hits + false))  # F1 = 2 tp / (2 tp + fn + fp)
    return float(value), float(low), float(high)
