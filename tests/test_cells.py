"""Cells: counting patterns, checking input, and DuckDB's group-by against it."""

import itertools
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from balance import Cells
from balance.errors import UserError
from balance.labels.attributes import pack_concepts
from balance.m4.counting import attribute_files, count_parquet


def test_equal_rows_are_merged() -> None:
    s = np.array([[1.0], [np.nan], [1.0], [np.nan], [0.0]])
    y = np.array([[1, 0], [0, 1], [1, 0], [0, 1], [1, 0]])
    cells = Cells.from_arrays(s, y, s_names=["woman"], y_names=["nurse", "doctor"])
    assert len(cells) == 3
    assert cells.total == 5
    found = {(str(a[0]), tuple(b)): n for a, b, n in zip(cells.s, cells.y.toarray(), cells.counts, strict=True)}
    assert found == {("1.0", (1, 0)): 2, ("nan", (0, 1)): 2, ("0.0", (1, 0)): 1}


@settings(deadline=None, max_examples=60)
@given(
    s=hnp.arrays(np.int8, st.tuples(st.integers(1, 30), st.just(2)), elements=st.integers(-1, 4)),
    seed=st.integers(0, 1000),
)
def test_order_duplication_and_grouping_do_not_matter(s: np.ndarray, seed: int) -> None:
    rng = np.random.default_rng(seed)
    values = np.where(s < 0, np.nan, s / 4)
    y = rng.integers(0, 2, (len(s), 3))
    cells = Cells.from_arrays(values, y)
    order = rng.permutation(len(s))
    assert Cells.from_arrays(values[order], y[order]).hash == cells.hash
    assert Cells.from_arrays(cells.s, cells.y, cells.counts).hash == cells.hash
    twice = Cells.from_arrays(np.vstack([values, values]), np.vstack([y, y]))
    np.testing.assert_array_equal(twice.counts, 2 * cells.counts)
    starts = cells.pattern_starts
    for first, last in itertools.pairwise(starts):
        assert (np.nan_to_num(cells.s[first:last], nan=-1) == np.nan_to_num(cells.s[first], nan=-1)).all()
    runs = np.nan_to_num(cells.s[starts[:-1]], nan=-1)
    assert len(np.unique(runs, axis=0)) == len(runs)


def test_sparse_and_dense_agree() -> None:
    rng = np.random.default_rng(0)
    s, y = rng.random((50, 2)).round(1), (rng.random((50, 7)) < 0.3).astype(int)
    assert Cells.from_arrays(s, y).hash == Cells.from_arrays(s, sp.csr_matrix(y)).hash
    assert Cells.from_arrays(s, y.astype(bool)).hash == Cells.from_arrays(s, y.astype(float)).hash


def test_rows_that_count_nothing_are_dropped() -> None:
    cells = Cells.from_arrays([0.0, 1.0], [[1], [0]], counts=[0, 3])
    assert len(cells) == 1
    assert cells.total == 3


def test_rounding_reports_its_error() -> None:
    s = np.array([0.1, 0.24, 0.5, np.nan, 1.0])
    cells = Cells.from_arrays(s, np.zeros((5, 1), int), bins=4)
    assert set(cells.s[~np.isnan(cells.s)]) == {0.0, 0.25, 0.5, 1.0}
    assert cells.s_error == pytest.approx(0.1)
    assert Cells.from_arrays(s, np.zeros((5, 1), int)).s_error == 0.0


GOOD = {"s": [[0.0], [1.0]], "y": [[1, 0], [0, 1]]}


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"s": [[0.0]]}, "s has 1 rows and y has 2"),
        ({"s": [[0.0], [1.5]]}, r"s\[1, 0\] is 1.5"),
        ({"s": [[-0.1], [1.0]]}, r"s\[0, 0\] is -0.1"),
        ({"y": [[2, 0], [0, 1]]}, "values other than 0 and 1"),
        ({"y": [[0.5, 0], [0, 1]]}, "values other than 0 and 1"),
        ({"y": [[np.nan, 0], [0, 1]]}, "y contains NaN"),
        ({"y": sp.csr_matrix([[np.nan, 0], [0, 1]])}, "y contains NaN"),
        ({"y": sp.csr_matrix([[3, 0], [0, 1]])}, "values other than 0 and 1"),
        ({"y": [["a", "b"], ["c", "d"]]}, "concepts are 0 or 1"),
        ({"y": np.zeros((2, 2, 2))}, "y has shape"),
        ({"s": np.zeros((2, 0))}, "s has shape"),
        ({"s_names": ["a", "b"]}, "s has 1 columns but s_names has 2"),
        ({"y_names": ["a", "a"]}, "'a' occurs twice in y_names"),
        ({"counts": [1.0]}, "counts has shape"),
        ({"counts": [1.0, -1.0]}, "negative"),
        ({"counts": [0, 0]}, "every count is 0"),
        ({"s": np.zeros((0, 1)), "y": np.zeros((0, 2))}, "data is empty"),
        ({"proxies": ["z"]}, "proxy 'z'"),
        ({"bins": 0}, "bins is 0"),
    ],
)
def test_bad_input(change: dict, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        Cells.from_arrays(**(GOOD | change))


def write_rows(path: Path, s: np.ndarray, y: np.ndarray, names: dict) -> None:
    """An attribute file."""
    words = pack_concepts(y)
    columns = {"key": [str(i) for i in range(len(s))]}
    columns |= {f"s.{name}": s[:, k] for k, name in enumerate(names["s_names"])}
    columns |= {f"y.{w}": np.ascontiguousarray(words[:, w]) for w in range(words.shape[1])}
    metadata = {b"counterbalance": json.dumps({"version": 1, **names}).encode()}
    pq.write_table(pa.table(columns).replace_schema_metadata(metadata), path)


@pytest.mark.parametrize("concepts", [1, 63, 64, 65, 200])
def test_files_give_the_cells_of_their_arrays(tmp_path: Path, concepts: int) -> None:
    rng = np.random.default_rng(concepts)
    s = rng.integers(0, 11, (400, 2)).astype(np.float32) / 10
    s[rng.random((400, 2)) < 0.2] = np.nan
    y = (rng.random((400, concepts)) < 0.02).astype(np.uint8)
    y[:, -1] = rng.random(400) < 0.5
    names = {"s_names": ["woman", "age=old"], "y_names": [f"c{r}" for r in range(concepts)], "proxies": ["c0"]}
    write_rows(tmp_path / "a.parquet", s[:150], y[:150], names)
    write_rows(tmp_path / "b.parquet", s[150:], y[150:], names)
    from_files = count_parquet(tmp_path)
    assert from_files.hash == Cells.from_arrays(s, y, None, **names).hash
    rounded = count_parquet(str(tmp_path / "*.parquet"), bins=4, threads=1, memory_limit="500MB")
    expected = Cells.from_arrays(s, y, None, **names, bins=4)
    assert rounded.hash == expected.hash
    assert rounded.s_error == pytest.approx(expected.s_error, abs=1e-6)
    assert rounded.s_error > 0.05


def test_bad_files(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no attribute files"):
        attribute_files(tmp_path)
    names = {"s_names": ["woman"], "y_names": ["c"], "proxies": []}
    write_rows(tmp_path / "a.parquet", np.zeros((3, 1), np.float32), np.ones((3, 1), np.uint8), names)
    write_rows(
        tmp_path / "b.parquet", np.zeros((3, 1), np.float32), np.ones((3, 1), np.uint8), names | {"y_names": ["d"]}
    )
    with pytest.raises(UserError, match="other attributes or concepts"):
        count_parquet(tmp_path)
    pq.write_table(pa.table({"x": [1]}), tmp_path / "b.parquet")
    with pytest.raises(UserError, match="no attribute file"):
        count_parquet(tmp_path)
    (tmp_path / "b.parquet").write_bytes(b"PAR1")
    with pytest.raises(UserError, match="not a readable parquet"):
        count_parquet(tmp_path)
