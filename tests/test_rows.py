"""Labels from tables of metadata: as from shards of the same captions, whatever the parts; conditions are only data."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from balance.errors import UserError
from balance.labels.annotate import annotate_shards
from balance.labels.attributes import build_annotator, read_attributes, read_meta
from balance.labels.rows import TableRows, columns_of_condition, expand_tables, is_table
from balance.m4.counting import count_parquet
from scripts import annotate, solve, subset
from tests.tiny import write_tar

CAPTIONS: dict[str, Any] = {
    "sources": [{"kind": "captions", "attributes": ["gender"], "concepts": ["occupations"]}],
}
PEOPLE = ["a woman nurse", "a man", "two women", "a dog", "a nurse", "a doctor and his wife"]
COLUMNS = {"key": "uid", "caption": "text"}


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """600 rows in six row groups, as DataComp's metadata: id, caption, similarity, language."""
    rows = pa.table(
        {
            "uid": [f"{i:032x}" for i in range(600)],
            "text": [PEOPLE[i * 7 % 6] for i in range(600)],
            "similarity": np.arange(600) / 600,
            "language": ["en" if i % 3 else None for i in range(600)],
        }
    )
    path = tmp_path / "metadata" / "00000.parquet"
    path.parent.mkdir()
    pq.write_table(rows, path, row_group_size=100)
    return path


def labels(files: list[Path]) -> dict[str, tuple[list[float], list[int]]]:
    read = [read_attributes(file) for file in files]
    assert len({tuple(one.y_names) for one in read}) == 1
    return {key: (one.s[i].tolist(), one.y[i].tolist()) for one in read for i, key in enumerate(one.keys)}


@pytest.mark.parametrize("rows", [1, 250, 10_000])
def test_labels_are_those_of_shards_of_the_same_captions(table: Path, tmp_path: Path, rows: int) -> None:
    pairs = [(f"{i:032x}", {"jpg": b"", "txt": PEOPLE[i * 7 % 6].encode()}) for i in range(600)]
    shard = str(write_tar(tmp_path / "a.tar", pairs))
    annotator = build_annotator(CAPTIONS)
    of_shards = annotate_shards([shard], annotator, tmp_path / "s", progress=False, check_images=False)
    parts = expand_tables(str(table.parent), rows=rows)
    assert len(parts) == {1: 6, 250: 3, 10_000: 1}[rows]
    assert all(is_table(part) for part in parts)
    of_rows = annotate_shards(parts, annotator, tmp_path / "r", progress=False, rows=TableRows(COLUMNS))
    np.testing.assert_equal(labels(of_rows), labels(of_shards))
    assert count_parquet([str(file) for file in of_rows]).total == 600


def test_a_condition_keeps_its_rows(table: Path, tmp_path: Path) -> None:
    rows = TableRows(COLUMNS, "similarity >= 0.5 AND language = 'en'")
    files = annotate_shards(
        expand_tables(str(table), rows=100), build_annotator(CAPTIONS), tmp_path / "r", progress=False, rows=rows
    )
    assert list(labels(files)) == [f"{i:032x}" for i in range(300, 600) if i % 3]


def test_what_is_done_is_not_done_again_and_other_conditions_are_other_labels(table: Path, tmp_path: Path) -> None:
    annotator, parts = build_annotator(CAPTIONS), expand_tables(str(table), rows=200)

    def label(where: str | None) -> list[Path]:
        return annotate_shards(parts, annotator, tmp_path / "r", progress=False, rows=TableRows(COLUMNS, where))

    first = label(None)
    times = [file.stat().st_mtime_ns for file in first]
    assert [file.stat().st_mtime_ns for file in label(None)] == times
    assert len(labels(label("similarity > 0.9"))) == 59
    assert len(labels(label(None))) == 600
    pq.write_table(pq.read_table(table).slice(0, 150), table, row_group_size=100)
    assert read_meta(first[0])["samples"] == 200
    parts = expand_tables(str(table))
    assert len(labels(label(None))) == 150


def test_rows_that_are_no_samples_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"key": [1, 2, 2, None], "caption": [["a man", "a nurse"], " ", "x", "y"][:1] * 4}), path)
    files = annotate_shards(
        expand_tables(str(path)), build_annotator(CAPTIONS), tmp_path / "r", progress=False, rows=TableRows(), max_bad=1
    )
    assert list(labels(files)) == ["1", "2"]
    assert read_meta(files[0])["bad"] == {"key repeated in its shard": 1, "no key": 1}


def test_columns_stand_for_the_json_of_a_sample(table: Path, tmp_path: Path) -> None:
    source = {"kind": "json", "field": "language", "concepts": ["en"]}
    annotator = build_annotator({"sources": [*CAPTIONS["sources"], source]})
    files = annotate_shards(
        expand_tables(str(table)), annotator, tmp_path / "r", progress=False, rows=TableRows(COLUMNS, meta=True)
    )
    read = read_attributes(files[0])
    assert read.y[:, read.y_names.index("en")].tolist() == [int(i % 3 > 0) for i in range(600)]


@pytest.mark.parametrize(
    "where",
    [
        "similarity IN (SELECT 1)",
        "EXISTS (SELECT * FROM read_text('/etc/passwd'))",
        "similarity > (SELECT count(*) FROM glob('/etc/*'))",
        "1) UNION SELECT (2",
        "1) ORDER BY (similarity",
        "1) GROUP BY (similarity",
        "true); COPY rows TO 'x.csv'; SELECT (true",
        "true); ATTACH 'x.db'; SELECT (true",
        "true); INSTALL httpfs; SELECT (true",
        "row_number() OVER () > 3",
        "similarity > ?",
        "similarity >",
        "",
        "1 = 1",
    ],
)
def test_more_than_a_condition_is_refused_before_anything_is_read(where: str, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"^data\.where="):
        columns_of_condition(where)
    assert list(tmp_path.iterdir()) == []


def test_a_condition_names_its_columns() -> None:
    assert columns_of_condition("similarity > 0.28 AND language = 'en' -- good ones") == ["language", "similarity"]
    assert columns_of_condition("lower(\"a b\") LIKE '%x%' OR box.left > 3") == ["a b", "box"]


@pytest.mark.parametrize("where", ["similarity > 'x'", "count(*) > 1 AND similarity > 0", "read_text(text) = 'x'"])
def test_a_condition_that_does_not_fit_is_told(where: str, table: Path, tmp_path: Path) -> None:
    rows = TableRows(COLUMNS, where)
    with pytest.raises(UserError, match="does not fit the columns"):
        annotate_shards(expand_tables(str(table)), build_annotator(CAPTIONS), tmp_path, progress=False, rows=rows)


def test_a_column_that_is_not_there_is_told_with_those_that_are(table: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has no column 'key'; it has uid, text, similarity, language"):
        annotate_shards(
            expand_tables(str(table)), build_annotator(CAPTIONS), tmp_path, progress=False, rows=TableRows()
        )
    with pytest.raises(UserError, match="must name two columns"):
        TableRows({"key": "uid"})
    with pytest.raises(UserError, match="there is no parquet table"):
        expand_tables(str(tmp_path / "nowhere"))


def test_from_a_table_to_the_ids_of_a_subset(table: Path, tmp_path: Path) -> None:
    """Without any picture: label, solve, and write what DataComp takes."""
    out = tmp_path / "labels"
    given = [f"data.train={table.parent}", "data.columns={key: uid, caption: text}", "data.where=similarity < 0.9"]
    annotate.main([*given, "attributes=captions", f"out={out}", "workers=0", "progress=false"])
    solve.main([f"attributes={out}", f"out={tmp_path}/plan", "balance.keep=0.8", "balance.min_concept_samples=1"])
    wanted = ["format=uids", f"out={tmp_path}/u.npy", "workers=0", "progress=false"]
    subset.main([f"plan={tmp_path}/plan", f"attributes={out}", *wanted])
    ids = np.load(tmp_path / "u.npy")
    assert ids["f0"].tolist() == [0] * len(ids)
    assert 0.75 * 540 < len(ids) < 0.85 * 540
    assert int(ids["f1"].max()) < 540
    assert json.loads((tmp_path / "plan" / "plan.json").read_text())["problem"]["target"]
