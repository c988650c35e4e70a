"""Series of pictures that lead from one face to another, found by the labels of a set and put into order."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from balance.errors import UserError
from eval.options import groups_by, need_field
from eval.sets import EvalSet

# The share of the minority face at step i of n: the paper's definition, and what its released code makes.
STEPS = {
    "paper": lambda n: 1 - np.arange(n) / (n - 1),
    "released": lambda n: 1 - np.arange(n) / n,
}


@dataclass(frozen=True)
class MorphGroup:
    """All series of one group.

    Attributes:
        name: the values of the labels that make the group, such as "black female".
        minority: the word for it in prompts.
        rows: (series, steps) rows of the set, from the minority face to the other.
        shares: (steps,) share of the minority face, falling.
    """

    name: str
    minority: str
    rows: NDArray[np.int64]
    shares: NDArray[np.float64]

    @property
    def middle(self) -> int:
        """The step nearest to equal shares."""
        return int(np.abs(self.shares - 0.5).argmin())


def find_groups(name: str, config: Mapping[str, Any], data: EvalSet) -> list[MorphGroup]:
    """The groups of morph series in a set.

    Args:
        name: the evaluator's, for messages.
        config: `group`, `minority`, `series`, `step`, `steps` as in `eval.evaluators.hypodescent.Hypodescent`.
        data: the set.

    Raises:
        UserError: a label is missing, a step is no number, a series lacks a step that others of its group have, or a
            group has no word.
    """
    series, step = str(config.get("series") or "series"), str(config.get("step") or "target_weight")
    steps = str(config.get("steps") or "labels")
    if steps not in ("labels", *STEPS):
        raise UserError(f"eval.evaluators.{name}.steps={steps} is not one of labels, {', '.join(STEPS)}.")
    need_field(name, data, series)
    need_field(name, data, step)
    words = {str(key): str(word) for key, word in dict(config["minority"]).items()}
    found = []
    for group, rows in groups_by(name, data, config["group"]).items():
        values = " ".join(part.partition("=")[2] for part in group.split(", "))
        table, places = _table(name, data, rows, series, step, values)
        if steps == "labels":
            shares = 1 - places
            if shares.min() < -1e-9 or shares.max() > 1 + 1e-9:
                raise UserError(
                    f"eval.evaluators.{name}: the label {step!r} must lie between 0 and 1, or steps=paper be given."
                )
        else:
            shares = STEPS[steps](len(places))
        found.append(MorphGroup(values, _word(name, values, words), table, shares))
    if not found:
        raise UserError(f"eval.evaluators.{name}: no picture of the set {data.name} has all of {config['group']}.")
    return found


def _table(
    name: str, data: EvalSet, rows: NDArray[np.int64], series: str, step: str, group: str
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Rows by series and step, and the steps' values."""
    by_series: dict[str, dict[float, int]] = {}
    for row in rows:
        labels = data.labels[row]
        try:
            place = float(labels[step])
        except (KeyError, TypeError, ValueError):
            raise UserError(
                f"eval.evaluators.{name}: the picture {_key(data, row)} has no number as its {step!r}, but "
                f"{labels.get(step)!r}."
            ) from None
        one = by_series.setdefault(str(labels.get(series)), {})
        if place in one:
            raise UserError(
                f"eval.evaluators.{name}: two pictures of the series {labels.get(series)} have {step}={place:g}, "
                f"such as {_key(data, row)}."
            )
        one[place] = int(row)
    places = sorted({place for one in by_series.values() for place in one})
    for label, one in by_series.items():
        lacking = [place for place in places if place not in one]
        if lacking:
            raise UserError(
                f"eval.evaluators.{name}: the series {label} of {data.name} lacks the picture with "
                f"{step}={lacking[0]:g} that other series of {group} have."
            )
    if len(places) < 3:
        raise UserError(f"eval.evaluators.{name}: the series of {group} have {len(places)} step(s); they need three.")
    # In the order of names, so that the order of the pictures changes nothing.
    table = np.array([[by_series[label][place] for place in places] for label in sorted(by_series)])
    return table, np.array(places)


def _word(name: str, group: str, words: Mapping[str, str]) -> str:
    """The word of the longest key whose values the group has."""
    fitting = [key for key in words if set(key.split()) <= set(group.split())]
    if not fitting:
        raise UserError(f"eval.evaluators.{name}.minority has no word for {group!r}, only for {', '.join(words)}.")
    return words[max(fitting, key=lambda key: len(key.split()))]


def _key(data: EvalSet, row: int) -> str:
    return data.keys[row] if data.keys else f"number {row}"
