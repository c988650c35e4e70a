"""Tables of labels that do not fit the data, each told in one sentence."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from balance.errors import UserError
from balance.labels.annotate import annotate_shards
from balance.labels.annotators import build_annotator
from balance.labels.attributes import read_attributes
from balance.labels.summary import Summary
from balance.labels.tables import matching_value
from tests.shard_tools import write_tar

N = 6
KEYS = [f"{i:09d}" for i in range(N)]


def source(path: Path, **more: Any) -> dict[str, Any]:
    values = {"woman": ["f"], "man": ["m"]}
    one = {"kind": "table", "path": str(path), "field": "gender", "positive": "woman", "values": values, **more}
    return {"sources": [{name: value for name, value in one.items() if value is not None}]}


def folders(tmp_path: Path, *names: str) -> list[str]:
    """Shards as img2dataset writes them: the same keys in each folder."""
    shards = [tmp_path / name for name in names or ("a/00000.tar", "b/00000.tar")]
    return [str(write_tar(path, [{"key": key, "caption": "x"} for key in KEYS])) for path in shards]


def labelled(shards: list[str], config: dict[str, Any], out: Path) -> tuple[list[np.ndarray], Summary]:
    found: list[Summary] = []
    files = annotate_shards(shards, build_annotator(config, shards=shards), out, progress=False, report=found.append)
    return [read_attributes(file).s[:, 0] for file in files], found[0]


def table(path: Path, **columns: Any) -> Path:
    pq.write_table(pa.table(columns), path)
    return path


def test_keys_that_repeat_over_shards_need_a_column_of_shards(tmp_path: Path) -> None:
    shards = folders(tmp_path)
    women = table(tmp_path / "t.parquet", key=KEYS, gender=["f"] * N)  # of folder a; those of b are men
    for missing in ("error", "unknown"):
        with pytest.raises(UserError, match=r"6 keys of the table .*'000000000'.* 2 shards hold \(.*a/00.*b/00.*set"):
            labelled(shards, source(women, missing=missing), tmp_path / missing)
    both = table(
        tmp_path / "both.parquet", key=KEYS * 2, gender=["f"] * N + ["m"] * N, at=["a/00000"] * N + ["b/00000.tar"] * N
    )
    (a, b), summary = labelled(shards, source(both, shard="at"), tmp_path / "both")
    assert (a == 1).all()
    assert (b == 0).all()
    assert not summary.warnings
    with pytest.raises(UserError, match="lacks 6 of 6 keys"):
        labelled(folders(tmp_path, "a/00000.tar", "c/00000.tar"), source(both, shard="at"), tmp_path / "c")


def test_a_column_of_shards_must_name_them(tmp_path: Path) -> None:
    shards = folders(tmp_path)
    alike = table(tmp_path / "alike.parquet", key=KEYS, gender=["f"] * N, at=["00000"] * N)
    with pytest.raises(UserError, match=r"names '00000', which stands for .*a/00000\.tar and .*b/00000\.tar alike"):
        labelled(shards, source(alike, shard="at"), tmp_path / "out")
    none = table(tmp_path / "none.parquet", key=KEYS, gender=["f"] * N, at=["zebra"] * N)
    with pytest.raises(UserError, match=r"names none of the 2 shards; it holds 'zebra'"):
        labelled(shards, source(none, shard="at"), tmp_path / "out")


def test_shards_are_named_by_the_ends_of_their_addresses() -> None:
    values = ["00007", "b/00007.tar.gz", "8", "/x/a/9.tar"]
    assert matching_value(values, "/x/a/00007.tar") == "00007"
    assert matching_value(values, "/x/b/00007.tar.gz") == "b/00007.tar.gz"
    assert matching_value(values, "https://host/c/00008.tar") == "8"
    assert matching_value(values, "/x/a/9.tar") == "/x/a/9.tar"
    assert matching_value(values, "/x/a/10.tar") is None


def test_a_table_that_labels_nothing_or_little_is_told(tmp_path: Path) -> None:
    shards = folders(tmp_path, "a/00000.tar")
    other = table(tmp_path / "other.parquet", key=[0, 1, 2], gender=["f"] * 3)
    with pytest.raises(UserError, match=r"None of the 6 samples has a row .*'000000000', the table's such as '0'"):
        labelled(shards, source(other, missing="unknown"), tmp_path / "out")
    with pytest.raises(UserError, match=r"lacks 6 of 6 keys, '000000000' the first \(its own are such as '0'\)"):
        labelled(shards, source(other), tmp_path / "out2")
    few = table(tmp_path / "few.parquet", key=KEYS[:2], gender=["f"] * 2, at=["a/00000"] * 2)
    for shard in (None, "at"):
        _, summary = labelled(shards, source(few, missing="unknown", shard=shard), tmp_path / f"few-{shard}")
        assert summary.warnings == [f"the table {few} has rows for 2 of 6 samples (33.3%)"]
        assert summary.warnings[0] in summary.lines()


def test_rows_that_differ_are_counted(tmp_path: Path) -> None:
    shards = folders(tmp_path, "a/00000.tar")
    twice = table(tmp_path / "t.parquet", key=[*KEYS, *KEYS], gender=["f"] * N + ["F", "f", "m", "m", "m", None])
    (s,), summary = labelled(shards, source(twice), tmp_path / "out")
    np.testing.assert_array_equal(s, [1, 1, np.nan, np.nan, np.nan, 1])
    assert len(summary.warnings) == 1
    assert "3 keys of the table" in summary.warnings[0]
    assert "differ in 'gender', such as '000000002'" in summary.warnings[0]


def test_parts_of_a_table_may_be_null_or_in_another_order(tmp_path: Path) -> None:
    shards = folders(tmp_path, "a/00000.tar")
    parts = tmp_path / "parts"
    parts.mkdir()
    table(parts / "0.parquet", key=KEYS[:2], gender=pa.nulls(2))
    table(parts / "1.parquet", gender=["f", "m"], key=KEYS[2:4])
    table(parts / "2.parquet", key=KEYS[4:], gender=["m", "f"], more=[1, 2])
    (s,), _ = labelled(shards, source(parts), tmp_path / "out")
    np.testing.assert_array_equal(s, [np.nan, np.nan, 1, 0, 0, 1])


@pytest.mark.parametrize(
    ("columns", "more", "sentence"),
    [
        ({"key": KEYS}, {}, r"table .*1\.parquet has no column 'gender'; it has key"),
        ({"id": KEYS, "gender": ["f"] * N}, {}, r"1\.parquet has no column 'key'"),
        ({"key": [[k] for k in KEYS], "gender": ["f"] * N}, {}, r"'key' of the table .*1\.parquet must hold texts"),
        (
            {"key": KEYS, "gender": ["f"] * N, "p": ["high"] * N},
            {"score": "p"},
            r"'p' of the table .*must hold numbers",
        ),
        ({"key": KEYS, "gender": ["f"] * N}, {"shard": "at"}, r"has no column 'at'"),
        ({"key": KEYS, "gender": ["f"] * N}, {"min_score": "high"}, r"min_score='high' is no number"),
        (
            {"key": KEYS, "gender": ["0.7"] * N},
            {"values": None, "positive": None, "probability": "woman"},
            "hold numbers",
        ),
    ],
)
def test_parts_that_do_not_fit_are_named(tmp_path: Path, columns: Any, more: dict[str, Any], sentence: str) -> None:
    parts = tmp_path / "parts"
    parts.mkdir()
    numbers = {"p": [1.0] * N, "at": ["x"] * N}
    good = pa.array([0.5] * N) if "probability" in more else pa.array(["f"] * N)
    table(parts / "0.parquet", key=KEYS, gender=good, **numbers)
    table(parts / "1.parquet", **columns)
    with pytest.raises(UserError, match=sentence):
        build_annotator(source(parts, **more))


def test_what_duckdb_can_not_do_is_one_sentence(tmp_path: Path) -> None:
    shards = folders(tmp_path, "a/00000.tar")
    path = table(tmp_path / "t.parquet", key=KEYS, gender=["f"] * N)
    annotator = build_annotator(source(path))
    data = bytearray(path.read_bytes())
    data[4:60] = b"\xff" * 56  # the pages; the footer is whole
    path.write_bytes(data)
    with pytest.raises(UserError, match=r"Annotating the shard .*the table .*t\.parquet can't be read: [^\n]*$"):
        annotate_shards(shards, annotator, tmp_path / "out", progress=False)
    text = tmp_path / "text.parquet"
    text.write_text("no parquet")
    with pytest.raises(UserError, match=r"text\.parquet is no readable parquet file"):
        build_annotator(source(text))
