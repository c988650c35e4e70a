"""Plans from data frames as people have them, and a start without what is not needed."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

import balance
from balance.errors import UserError
from balance.stream.accepted import AcceptedMoments


def people(n: int = 4000) -> pd.DataFrame:
    """Two in five are women; nurses are women and pilots men, four times in five."""
    rng = np.random.default_rng(0)
    woman = rng.random(n) < 0.4
    job = np.where(woman ^ (rng.random(n) < 0.2), "nurse", "pilot").astype(object)
    job[rng.random(n) < 0.3] = None
    known = pd.array(woman, dtype="boolean")
    known[rng.random(n) < 0.1] = pd.NA
    age = pd.cut(rng.integers(0, 90, n), [0, 18, 60, 100], right=False)
    return pd.DataFrame({"woman": known, "age": age, "job": job}, index=np.arange(n) * 2 + 7)


def test_five_lines_from_a_frame_to_rates() -> None:
    frame = people()
    plan, frame["rate"] = balance.from_pandas(frame, attributes=["woman", "age"], concepts=["job"])
    assert plan.cells.s_names == ("woman", "age=[0, 18)", "age=[18, 60)", "age=[60, 100)")
    assert plan.cells.y_names == ("job=nurse", "job=pilot")
    assert plan.before.representation_bias > 0.1
    known = frame[frame.woman.notna()]
    share = np.average(known.woman.astype(float), weights=known.rate)
    assert share == pytest.approx(plan.after.representation[0], abs=1e-9)
    assert share == pytest.approx(0.5, abs=0.0101)
    nurses = known[known.job == "nurse"]
    assert np.average(nurses.woman.astype(float), weights=nurses.rate) == pytest.approx(0.5, abs=0.0201)
    assert frame.rate.mean() == pytest.approx(plan.keep, abs=1e-6)
    assert balance.rates_of(plan, frame).equals(frame.rate)


def test_rows_that_a_plan_has_not_seen() -> None:
    frame = people()
    plan, rate = balance.from_pandas(frame, ["age", "woman"], ["job"], keep=0.5)
    new = pd.DataFrame({"woman": [None, 1], "age": ["[0, 18)", "of another kind"], "job": ["plumber", None]})
    rates = balance.rates_of(plan, new)
    s = np.array([[1, 0, 0, np.nan], [np.nan, np.nan, np.nan, 1]])
    np.testing.assert_allclose(rates, plan.rates(s, np.zeros((2, 2))))
    assert rate.name == "rate"
    with pytest.raises(UserError, match="There is no column 'job'"):
        balance.rates_of(plan, new.drop(columns="job"))


@pytest.mark.parametrize(
    "column",
    [
        [True, None, False, False],
        [1, None, 0, 0],
        [1.0, float("nan"), 0.0, 0.0],
        pd.array([1, None, 0, 0], dtype="Int8"),
        pd.array([True, None, False, False], dtype="boolean"),
        np.array([True, np.nan, False, False], dtype=object),
    ],
    ids=repr,
)
def test_what_is_missing_is_unknown_however_it_is_written(column: Any) -> None:
    plan, _ = balance.from_pandas(pd.DataFrame({"a": column}), ["a"], keep=0.9)
    counts = {str(s): count for s, count in zip(plan.cells.s[:, 0], plan.cells.counts, strict=True)}
    assert counts == {"0.0": 2, "1.0": 1, "nan": 1}


def test_text_categories_and_lists_are_groups_of_concepts() -> None:
    frame = pd.DataFrame(
        {
            "a": [True, False, True],
            "kind": pd.Categorical(["x", None, "x"], categories=["x", "y"]),
            "tags": [["q", "p"], None, ["q", "q"]],
        }
    )
    plan, _ = balance.from_pandas(frame, ["a"], ["kind", "tags"], keep=0.9)
    assert plan.cells.y_names == ("kind=x", "kind=y", "tags=p", "tags=q")
    rows = {tuple(row): count for row, count in zip(plan.cells.y.toarray().tolist(), plan.cells.counts, strict=True)}
    assert rows == {(1, 0, 1, 1): 1, (0, 0, 0, 0): 1, (1, 0, 0, 1): 1}


def test_other_libraries_frames_give_the_same_rates() -> None:
    frame = people(500)
    frame["age"] = frame["age"].astype(str)
    _, rate = balance.from_pandas(frame, ["woman", "age"], ["job"])
    table = pa.Table.from_pandas(frame, preserve_index=False)
    _, of_arrow = balance.from_pandas(table, ["woman", "age"], ["job"])
    np.testing.assert_allclose(of_arrow.to_numpy(), rate)
    polars = pytest.importorskip("polars")
    _, of_polars = balance.from_pandas(polars.from_arrow(table), ["woman", "age"], ["job"])
    assert isinstance(of_polars, polars.Series)
    np.testing.assert_allclose(of_polars.to_numpy(), rate)


def test_weights_that_samples_carry_already() -> None:
    frame = pd.DataFrame({"a": [1, 0], "w": [3.0, 1.0]})
    plan, _ = balance.from_pandas(frame, ["a"], weights="w", keep=0.5)
    assert plan.before.representation[0] == pytest.approx(0.75)


@pytest.mark.parametrize(
    ("frame", "arguments", "sentence"),
    [
        ([1], (["a"],), "A list is no data frame"),
        (pd.DataFrame({"age": [37, 1]}), (["age"],), "holds 37: an attribute is 0, 1, a probability"),
        (pd.DataFrame({"woman": [1]}), (["womam"],), "no column 'womam' (did you mean 'woman'?)"),
        (pd.DataFrame({"a": [1], "b": [0.5]}), (["a"], ["b"]), "holds 0.5: a concept is 0 or 1"),
        (pd.DataFrame({"a": [1]}), ("a",), "write attributes=['a']"),
        (pd.DataFrame({"a": [1]}), ([],), "name at least one"),
        (pd.DataFrame({"a": ["x", None]}), (["a"],), "has 1 different values; an attribute has 2 to 100"),
        (pd.DataFrame({"a": [1, "x"]}), (["a"],), "holds values of several kinds"),
        (pd.DataFrame({"a": pd.to_datetime(["2020-01-01"])}), (["a"],), "give booleans, numbers, text or categories"),
    ],
)
def test_what_is_no_attribute_or_concept_is_told(frame: Any, arguments: Any, sentence: str) -> None:
    with pytest.raises(UserError) as caught:
        balance.from_pandas(frame, *arguments)
    assert sentence in str(caught.value)


def test_captions_to_labels_to_rates() -> None:
    captions = pd.Series(["a woman works as a nurse", "a man and his dog", None, "a nurse at work"], index=[3, 5, 7, 9])
    labels = balance.label_captions(captions, attributes=["gender"], concepts=["occupations"])
    assert labels.frame.index.tolist() == [3, 5, 7, 9]
    np.testing.assert_array_equal(labels.frame["woman"], [1, 0, np.nan, np.nan])
    assert labels.frame["nurse"].tolist() == [True, False, False, True]
    _, rate = balance.from_pandas(*labels, keep=0.9)
    assert rate.index.tolist() == [3, 5, 7, 9]


def test_what_came_out_has_the_moments_of_the_plan() -> None:
    frame = people(2000)
    plan, rate = balance.from_pandas(frame, ["woman"], ["job"], max_repeat=2.0)
    sampler = balance.BalancedSampler(rate)
    accepted = AcceptedMoments(plan.cells.s_names, plan.cells.y_names)
    s = frame[["woman"]].astype("float32").to_numpy()
    y = np.column_stack([frame.job == "nurse", frame.job == "pilot"]).astype(np.uint8)
    for _ in range(30):
        at = np.array(list(sampler))
        accepted.add(s[at], y[at])
    np.testing.assert_allclose(accepted.representation, plan.after.representation, atol=0.01)
    np.testing.assert_allclose(accepted.inside, plan.after.concept_share, atol=0.01)


def test_the_library_starts_without_trainer_and_torch(root: Path) -> None:
    code = (
        "import sys, balance; import pandas as pd\n"
        "balance.from_pandas(pd.DataFrame({'a': [1, 0]}), ['a'], keep=0.9); balance.wds.by_key({'k': 1.0})\n"
        "heavy = {'torch', 'webdataset', 'open_clip', 'sklearn', 'matplotlib', 'cvxpy', 'models', 'conf', 'eval'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, timeout=60)
    assert done.stdout == "[]\n", done.stderr


def test_public_names_can_be_had() -> None:
    assert {name for name in balance.__all__ if getattr(balance, name) is None} == set()
    assert set(balance.__all__) <= set(dir(balance))
