from pathlib import Path
from typing import Any

import numpy as np
import pytest

from balance.errors import UserError
from balance.labels.annotators import build_annotator
from balance.labels.metadata import JsonSource, json_field, resolve_auto
from balance.stream.samples import Sample
from tests.shard_tools import write_tar

NAN = np.nan


def annotate(config: dict[str, Any], *metas: dict[str, Any]) -> tuple[JsonSource, np.ndarray, np.ndarray]:
    source = JsonSource({"kind": "json", **config})
    return source, *source.annotate([Sample(f"{i}", b"", (), meta) for i, meta in enumerate(metas)])


def test_binary_values() -> None:
    config = {"field": "gender", "positive": "woman", "values": {"woman": ["woman", "F", 1], "man": ["man", "M", 0]}}
    metas = [
        {"gender": value} for value in ("Woman", " f ", 1, 0, "m", None, "robot", ["man", "M"], ["man", "woman"], [])
    ]
    source, s, y = annotate(config, *metas, {})
    assert source.s_names == ["woman"]
    np.testing.assert_array_equal(s[:, 0], [1, 1, 1, 0, 0, NAN, NAN, 0, NAN, NAN, NAN])
    assert y.shape == (11, 0)


def test_one_hot_values() -> None:
    config = {"field": "person.race", "values": {"a": "A", "b": ["B", "b2"], "c": "C"}}
    source, s, _ = annotate(config, {"person": {"race": "b2"}}, {"person": {}}, {"person": "?"}, {"person.race": "c"})
    assert source.s_names == ["race=a", "race=b", "race=c"]
    np.testing.assert_array_equal(s, [[0, 1, 0], [NAN] * 3, [NAN] * 3, [0, 0, 1]])


def test_bins_hold_their_lower_end() -> None:
    bins = {"child": [0, 13], "adult": [13, 60], "old": [60, None]}
    metas = [{"age": age} for age in (0, 12.9, 13, 60, 101, -1, "17", "old", None, NAN)]
    source, s, _ = annotate({"field": "age", "attribute": "age_group", "bins": bins}, *metas)
    assert source.s_names == ["age_group=child", "age_group=adult", "age_group=old"]
    found = [names[0] if (names := np.flatnonzero(row == 1)).size else None for row in s]
    assert found == [0, 0, 1, 2, 2, None, 1, None, None, None]


def test_probability() -> None:
    config = {"field": "p", "probability": "woman"}
    _, s, _ = annotate(config, {"p": 0.25}, {"p": 1}, {"p": None}, {"p": [0.2, 0.4]}, {"p": NAN}, {})
    np.testing.assert_allclose(s[:, 0], [0.25, 1, NAN, 0.3, NAN, NAN], rtol=1e-6)
    with pytest.raises(UserError, match="holds 7, which is no probability"):
        annotate(config, {"p": 7})


def test_concepts() -> None:
    config = {
        "field": "objects",
        "concepts": {"nurse": ["nurse", "RN"], "cook": ["cook"]},
        "prefix": "is ",
        "proxies": True,
    }
    source, s, y = annotate(
        config, {"objects": ["rn", "Cook"]}, {"objects": "cook"}, {"objects": None}, {"objects": "x"}
    )
    assert source.y_names == source.proxies == ["is nurse", "is cook"]
    assert y.tolist() == [[1, 1], [0, 1], [0, 0], [0, 0]]
    assert s.shape == (4, 0)


def test_auto_concepts_are_what_the_shards_hold(tmp_path: Path) -> None:
    jobs = ["nurse", ["Cook", "nurse"], None, "pilot "]
    shard = str(
        write_tar(
            tmp_path / "s.tar", [{"key": f"{i}", "caption": "x", "meta": {"job": job}} for i, job in enumerate(jobs)]
        )
    )
    config = {"kind": "json", "field": "job", "concepts": "auto"}
    assert resolve_auto(config, [shard])["concepts"] == ["cook", "nurse", "pilot"]
    gender = {"kind": "captions", "attributes": ["gender"]}
    assert build_annotator({"sources": [gender, config]}, shards=[shard]).y_names == ["cook", "nurse", "pilot"]
    with pytest.raises(UserError, match="must be a list or a mapping"):
        build_annotator({"sources": [gender, config]})
    with pytest.raises(UserError, match="takes 0 values"):
        resolve_auto({**config, "field": "jobs"}, [shard])


def test_nested_fields() -> None:
    assert json_field({"a": {"b": {"c": 1}}}, "a.b.c") == 1
    assert json_field({"a": 1}, "a.b") is None


VALUES = {"woman": ["f"], "man": ["m"]}


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"values": VALUES}, "needs 'field'"),
        ({"field": "g"}, "exactly one of values, bins, probability and concepts; it has none"),
        ({"field": "g", "values": VALUES, "probability": "p"}, "it has values, probability"),
        ({"field": "g", "values": VALUES, "positive": "x"}, "positive='x'"),
        ({"field": "g", "values": {"woman": ["f"], "man": ["F"]}}, "maps 'f' twice"),
        ({"field": "g", "values": {"woman": ["f"]}}, "at least two"),
        ({"field": "g", "bins": {"a": [0], "b": [1, 2]}}, "two ends"),
        ({"field": "g", "value": VALUES}, "no key 'value'"),
    ],
)
def test_bad_settings(config: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        JsonSource({"kind": "json", **config})


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"source": []}, "unknown key 'source'"),
        ({"sources": []}, "at least one source"),
        ({"sources": [{"kind": "caption"}]}, "kind 'caption'; known kinds"),
        ({"sources": [{"kind": "json", "field": "j", "concepts": ["a"]}]}, "no source gives an attribute"),
        ({"sources": [{"kind": "table", "path": "gone.parquet", "field": "g", "values": VALUES}]}, "no parquet file"),
        ({"sources": [{"kind": "captions", "attributes": ["gender"]},
                      {"kind": "json", "field": "g", "values": VALUES, "positive": "woman"}]}, "from two sources"),
        ({"sources": [{"kind": "captions", "attributes": ["gender"], "concepts": ["occupations"]},
                      {"kind": "json", "field": "j", "concepts": ["nurse"]}]}, "two sources give the concept 'nurse'"),
        ({"sources": [{"kind": "captions", "attributes": ["gender"]},
                      {"kind": "json", "field": "j", "concepts": ["woman"]}]}, "both an attribute and a concept"),
    ],
)  # fmt: skip
def test_sources_that_clash(config: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        build_annotator(config)
