"""What a problem refuses, in one clear sentence."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from balance import Cells, Problem, solve
from balance.errors import UserError

S = np.array([[1.0, 1, 0], [0.0, 0, 1], [1.0, 0, 1], [np.nan, np.nan, np.nan]])
CELLS = Cells.from_arrays(
    S, [[1, 0], [1, 0], [0, 0], [1, 0]], None, ["woman", "age=young", "age=old"], ["nurse", "cook"]
)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"target": {}}, r"target=\{\} is empty"),
        ({"association": "per-concept"}, "did you mean 'per_concept'"),
        ({"max_repeat": 0}, "max_repeat=0 must be above 0"),
        ({"max_repeat": np.nan}, "max_repeat=nan must be a number"),
        ({"penalty": -1}, "penalty=-1 must be above 0"),
        ({"penalty": np.inf}, "penalty=inf must be a number"),
        ({"keep": 0}, "keep=0 must be above 0"),
        ({"keep": 1.5}, "keep=1.5 must be at most max_repeat=1"),
        ({"keep": "most"}, "keep=most must be a rate"),
        ({"keep": True}, "keep=True must be a number"),
        ({"keep": "auto", "min_keep": 0}, "min_keep=0 must be above 0"),
        ({"keep": "auto", "min_keep": 1.5, "max_repeat": 2}, "min_keep=1.5 must be at most 1"),
        ({"eps_representation": -0.1}, "eps_representation=-0.1 must be at least 0"),
        ({"eps_association": {"default": -0.1}}, "eps_association=-0.1 must be at least 0"),
        ({"eps_association": "small"}, "eps_association=small must be a number"),
        ({"min_concept_kept": 1.5}, "min_concept_kept=1.5 must be at most 1"),
        ({"min_concept_kept": -0.5}, "min_concept_kept=-0.5 must be at least 0"),
    ],
)
def test_settings_out_of_range(change: dict, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        Problem(**({"target": {"woman": 0.5}} | change))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"target": {"women": 0.5}}, "'women', which is no attribute of the data .did you mean 'woman'"),
        ({"target": {"woman&aged": 0.5}}, "'aged'"),
        ({"target": {"woman": 1.5}}, r"target.woman=1.5 must be a share in \[0, 1\]"),
        ({"target": {"woman": -0.5}}, "target.woman=-0.5 must be a share"),
        ({"target": {"woman": "half"}}, "target.woman=half must be a share"),
        ({"target": {"age": 0.5}}, "target.age=0.5 must be a share for each"),
        ({"target": {"age": {"young": 0.5}}}, "lacks 'age=old'"),
        ({"target": {"age": {"young": 0.5, "old": 0.6}}}, "sum to 1.1"),
        ({"target": {"age": {"young": 0.5, "olde": 0.5}}}, "did you mean 'age=old'"),
        ({"target": {"age": "uniform", "age=old": 0.5}}, "target names 'age=old' twice"),
        ({"eps_representation": {"man": 0.1}}, "eps_representation names 'man'.*'woman'"),
        ({"eps_association": {"nurses": 0.1}}, "did you mean 'nurse'"),
        ({"eps_association": {"woman|nurses": 0.1}}, "eps_association names"),
        ({"min_concept_kept": {"kook": 0.1}}, "did you mean 'cook'"),
        ({"proxies": ("nurce",)}, "proxy 'nurce' is not among the concepts .did you mean 'nurse'"),
        ({"utility": {"nurce": 2.0}}, "utility names 'nurce'"),
        ({"utility": {"nurse": -2.0}}, "utility.nurse=-2.0"),
        ({"utility": [1.0]}, "utility has shape"),
        ({"utility": [1.0, 1.0, np.nan, 1.0]}, "utility holds"),
        ({"base_weights": [1.0]}, "base_weights has shape"),
        ({"base_weights": np.zeros(4)}, "not all 0"),
    ],
)
def test_problem_that_does_not_fit_the_data(change: dict, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        solve(CELLS, Problem(**({"target": {"woman": 0.5}, "keep": 0.5} | change)))


def test_attribute_that_nobody_knows() -> None:
    cells = Cells.from_arrays([[np.nan], [np.nan]], [[1], [0]], s_names=["woman"])
    with pytest.raises(UserError, match="'woman' is unknown in every sample"):
        solve(cells, Problem(target={"woman": 0.5}))


def test_concept_that_nobody_bears_is_no_constraint() -> None:
    plan = solve(CELLS, Problem(target={"woman": 0.5}, keep=0.5))
    assert not any("cook" in label for label in plan.labels)
    assert np.isnan(plan.kept.concepts["cook"])


def test_dictionary_round_trip_and_unknown_setting() -> None:
    problem = Problem(target={"age": {"young": 0.5, "old": 0.5}}, eps_association={"nurse": 0.1}, proxies=("nurse",))
    again = Problem.from_dict(problem.to_dict())
    assert again.to_dict() == problem.to_dict()
    assert again.proxies == ("nurse",)
    with pytest.raises(UserError, match=r"kep is no setting of a problem .did you mean 'keep'"):
        Problem.from_dict({"target": {"woman": 0.5}, "kep": 0.9})


@pytest.mark.parametrize("values", [{}, {"keep": 0.9}, {"target": None}])
def test_a_problem_without_targets_is_told(values: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="target must be given: name each attribute"):
        Problem.from_dict(values)


def test_rare_concepts_can_be_left_unconstrained() -> None:
    few = Problem(target={"woman": 0.5}, keep=0.5, min_concept_samples=3)
    assert not any("|nurse" in label and "woman" in label for label in solve(CELLS, few).labels)
    some = Problem(target={"woman": 0.5}, keep=0.5, min_concept_samples=2)
    assert "woman+|nurse" in solve(CELLS, some).labels


@pytest.mark.parametrize("form", ["per_concept", "joint"])
def test_rare_concepts_can_be_held(form: str) -> None:
    """Ten samples move away from the target as women are drawn less in one job, more in another; held, they stay."""
    nurse, builder, rare = np.zeros((3, 2000))
    woman = np.zeros(2000)
    nurse[:1000], builder[1000:] = 1, 1
    woman[:800], woman[1000:1200] = 1, 1
    rare[:4], rare[1200:1204] = 1, 1  # women who are nurses, men who are builders: both are drawn less
    rare[1000:1002] = 1  # and two women of the rarer kind
    concepts = np.stack([nurse, builder, rare], axis=1)
    cells = Cells.from_arrays(woman[:, None], concepts, None, ["woman"], ["nurse", "builder", "rare"])
    wanted = {"target": {"woman": 0.5}, "keep": 0.4, "min_concept_samples": 30, "association": form}
    free, held = (solve(cells, Problem(**wanted, hold_rare=hold)) for hold in (False, True))
    away = [abs(plan.after.concept_share[0, 2] - 0.5) for plan in (free, held)]
    before = abs(free.before.concept_share[0, 2] - 0.5)
    assert away[0] > before + 0.02
    assert away[1] <= before + 1e-3
    assert not held.violations
    assert free.hash != held.hash


def test_the_setting_of_rare_concepts_is_checked() -> None:
    with pytest.raises(UserError, match="hold_rare=maybe must be true or false"):
        Problem(target={"woman": 0.5}, hold_rare="maybe")  # type: ignore[arg-type]
    assert Problem.from_dict(Problem(target={"woman": 0.5}, hold_rare=True).to_dict()).hold_rare
