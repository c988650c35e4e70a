import multiprocessing
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import balance.labels.annotate
from balance.errors import UserError
from balance.labels.annotate import annotate_shards
from balance.labels.annotate_shard import REPEATED
from balance.labels.attributes import (
    attribute_path,
    build_annotator,
    find_files,
    pack_concepts,
    read_attributes,
    read_meta,
    unpack_concepts,
)
from balance.labels.summary import Summary
from balance.prepare import prepare_balance
from balance.stream.tarwalk import CUT
from conf.app.command import guarded
from tests.commands import start
from tests.shard_tools import picture, write_tar

CAPTIONS: dict[str, Any] = {
    "sources": [{"kind": "captions", "attributes": ["gender"], "concepts": ["occupations"]}],
}
NAN = np.nan
PEOPLE = ["a woman nurse", "a man", "two women", "a dog", "a nurse", "a doctor and his wife"]


def pairs(prefix: str, n: int = 12) -> list[dict[str, Any]]:
    return [{"key": f"{prefix}{i:03d}", "caption": PEOPLE[i % len(PEOPLE)], "meta": {"n": i}} for i in range(n)]


@pytest.fixture
def shards(tmp_path: Path) -> list[str]:
    return [str(write_tar(tmp_path / "in" / f"s-{i}.tar", pairs(f"{i}-"))) for i in range(3)]


def contents(files: list[Path]) -> list[bytes]:
    return [path.read_bytes() for path in files]


def test_files_hold_what_the_captions_say(shards: list[str], tmp_path: Path) -> None:
    annotator = build_annotator(CAPTIONS)
    files = annotate_shards(shards, annotator, tmp_path / "out", progress=False)
    assert files == [attribute_path(tmp_path / "out", url) for url in shards]
    found = read_attributes(files[1])
    assert found.keys == [f"1-{i:03d}" for i in range(12)]
    np.testing.assert_array_equal(found.s[:6, 0], [1, 0, 1, np.nan, np.nan, np.nan])
    assert found.y[:, found.y_names.index("nurse")].tolist() == [1, 0, 0, 0, 1, 0] * 2
    assert found.meta["unknown"] == {"woman": 6}
    assert found.meta["samples"] == 12
    assert not list((tmp_path / "out").glob(".*"))


def test_columns_are_as_documented(shards: list[str], tmp_path: Path) -> None:
    annotator = build_annotator(CAPTIONS)
    table = pq.read_table(annotate_shards(shards[:1], annotator, tmp_path / "out", progress=False)[0])
    words = -(-len(annotator.y_names) // 64)
    assert table.column_names == ["key", "s.woman", *(f"y.{w}" for w in range(words))]
    assert table.schema.field("s.woman").type == pa.float32()
    assert table.schema.field("y.0").type == pa.uint64()


@given(hnp.arrays(np.uint8, st.tuples(st.integers(0, 5), st.integers(0, 140)), elements=st.integers(0, 1)))
def test_concepts_pack_and_unpack(y: np.ndarray) -> None:
    words = pack_concepts(y)
    assert words.shape == (len(y), -(-y.shape[1] // 64))
    np.testing.assert_array_equal(unpack_concepts(words, y.shape[1]), y)
    for r in range(y.shape[1]):
        np.testing.assert_array_equal((words[:, r // 64] >> np.uint64(r % 64)) & np.uint64(1), y[:, r])


def test_what_is_done_and_unchanged_is_skipped(shards: list[str], tmp_path: Path, monkeypatch: Any) -> None:
    annotator = build_annotator(CAPTIONS)
    files = annotate_shards(shards, annotator, tmp_path / "out", progress=False)
    before = contents(files)
    monkeypatch.setattr(balance.labels.annotate, "annotate_shard", lambda *_: pytest.fail("annotated again"))
    summaries: list[Summary] = []
    annotate_shards(shards, annotator, tmp_path / "out", progress=False, report=summaries.append)
    assert summaries[0].done == 3
    assert summaries[0].samples == 36
    assert contents(files) == before


def test_changed_shard_and_changed_configuration_are_noticed(shards: list[str], tmp_path: Path) -> None:
    files = annotate_shards(shards, build_annotator(CAPTIONS), tmp_path / "out", progress=False)
    times = [path.stat().st_mtime_ns for path in files]
    write_tar(Path(shards[1]), pairs("new-", 5))
    annotate_shards(shards, build_annotator(CAPTIONS), tmp_path / "out", progress=False)
    assert [path.stat().st_mtime_ns != t for path, t in zip(files, times, strict=True)] == [False, True, False]
    assert read_attributes(files[1]).keys[0] == "new-000"
    other = {"sources": [{**CAPTIONS["sources"][0], "both": "probability"}]}
    assert build_annotator(other).fingerprint != build_annotator(CAPTIONS).fingerprint
    annotate_shards(shards, build_annotator(other), tmp_path / "out", progress=False)
    assert read_meta(files[0])["annotator"] == build_annotator(other).fingerprint


def test_same_size_but_newer_shard_is_noticed(shards: list[str], tmp_path: Path) -> None:
    annotator = build_annotator(CAPTIONS)
    files = annotate_shards(shards, annotator, tmp_path / "out", progress=False)
    before = read_meta(files[0])["shard_id"]
    os.utime(shards[0], ns=(1, before["mtime_ns"] + 1))
    annotate_shards(shards, annotator, tmp_path / "out", progress=False)
    assert read_meta(files[0])["shard_id"]["mtime_ns"] == before["mtime_ns"] + 1


def test_word_list_edited_changes_the_fingerprint(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    config = {"sources": [{"kind": "captions", "attributes": ["gender", str(path)]}]}
    text = "attribute: gender\npositive: woman\nvalues: {woman: [donna], man: [uomo]}\n"
    path.write_text(text)
    first = build_annotator(config).fingerprint
    assert build_annotator(config).fingerprint == first
    path.write_text("# a comment changes nothing\n" + text)
    assert build_annotator(config).fingerprint == first
    path.write_text(text.replace("donna", "signora"))
    assert build_annotator(config).fingerprint != first


def test_interrupted_and_resumed_gives_the_same_files(shards: list[str], tmp_path: Path, monkeypatch: Any) -> None:
    annotator = build_annotator(CAPTIONS)
    whole = contents(annotate_shards(shards, annotator, tmp_path / "whole", progress=False))
    real, calls = balance.labels.annotate.annotate_shard, []

    def interrupted(task: Any, url: str) -> Path:
        calls.append(url)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(task, url)

    with monkeypatch.context() as patch:
        patch.setattr(balance.labels.annotate, "annotate_shard", interrupted)
        with pytest.raises(KeyboardInterrupt):
            annotate_shards(shards, annotator, tmp_path / "cut", progress=False)
    assert len(list((tmp_path / "cut").iterdir())) == 1
    assert contents(annotate_shards(shards, annotator, tmp_path / "cut", progress=False)) == whole


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_workers_at_once_and_leaves_no_half_file(tmp_path: Path, number: int) -> None:
    """The workers wait for bytes that never come, as of a slow network."""
    shards = [str(tmp_path / f"{name}.tar") for name in "abc"]
    for shard in shards:
        os.mkfifo(shard)

    def stop() -> None:
        time.sleep(1.5)
        os.kill(os.getpid(), number)

    def work() -> None:
        annotate_shards(shards, build_annotator(CAPTIONS), tmp_path / "out", workers=2, progress=False)

    others = set(multiprocessing.active_children())
    thread = threading.Thread(target=stop)
    thread.start()
    started = time.monotonic()
    assert guarded(work) == 128 + number
    assert time.monotonic() - started < 20
    assert set(multiprocessing.active_children()) <= others
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())
    thread.join()


def test_interrupted_while_writing_leaves_no_half_file(shards: list[str], tmp_path: Path, monkeypatch: Any) -> None:
    def cut(table: Any, path: Path, **_: Any) -> None:
        Path(path).write_bytes(b"PAR1 half")
        raise KeyboardInterrupt

    monkeypatch.setattr("balance.labels.attributes.pq.write_table", cut)
    with pytest.raises(KeyboardInterrupt):
        annotate_shards(shards, build_annotator(CAPTIONS), tmp_path / "out", progress=False)
    assert not list((tmp_path / "out").iterdir())


def test_damaged_attribute_file_is_made_again(shards: list[str], tmp_path: Path) -> None:
    annotator = build_annotator(CAPTIONS)
    files = annotate_shards(shards, annotator, tmp_path / "out", progress=False)
    before = contents(files)
    files[0].write_bytes(before[0][:-20])
    assert contents(annotate_shards(shards, annotator, tmp_path / "out", progress=False)) == before
    files[0].write_bytes(b"no parquet")
    with pytest.raises(UserError, match="can't be read"):
        read_attributes(files[0])


BAD = [
    {"key": "b0", "caption": "a man", "image": None},
    {"key": "b1"},
    {"key": "b2", "caption": b"\xff\xfe caf\xe9"},
    {"key": "b3", "caption": "a man", "image": b"no picture"},
    {"key": "b4", "caption": "a man", "meta": b"{no json"},
    {"key": "b5", "caption": "   "},
]
CAUSES = {"no picture": 1, "no caption": 2, "caption is not UTF-8": 1, "undecodable picture": 1, "unreadable JSON": 1}


def bad_shards(folder: Path) -> list[str]:
    """One shard with each kind of bad sample, one with a repeated key, one cut short, one good."""
    good = write_tar(folder / "good.tar", pairs("good-", 60))
    mixed = write_tar(folder / "mixed.tar", [*pairs("m-", 6), *BAD])
    repeated = write_tar(folder / "repeated.tar", [*pairs("r-", 6), *pairs("r-", 1)])
    cut = write_tar(folder / "cut.tar", pairs("c-", 10))
    cut.write_bytes(cut.read_bytes()[: 30 * 512])
    return [str(path) for path in (good, mixed, repeated, cut)]


def test_bad_samples_are_counted_by_cause(tmp_path: Path) -> None:
    summaries: list[Summary] = []
    urls = bad_shards(tmp_path / "in")
    files = annotate_shards(
        urls, build_annotator(CAPTIONS), tmp_path / "out", progress=False, max_bad=0.3, report=summaries.append
    )
    assert dict(summaries[0].bad) == {**CAUSES, REPEATED: 1}
    assert read_attributes(files[1]).keys == [f"m-{i:03d}" for i in range(6)]
    assert read_attributes(files[2]).keys == [f"r-{i:03d}" for i in range(6)]
    cut = read_attributes(files[3])
    assert 0 < len(cut.keys) < 10
    assert cut.meta["bad"] == {}
    assert cut.meta["damage"]["cause"] == CUT
    assert "7 bad" in summaries[0].lines()[0]


def test_too_many_bad_samples_stop_the_job(tmp_path: Path) -> None:
    urls = bad_shards(tmp_path / "in")
    with pytest.raises(UserError, match=r"30 of .* samples are bad or lost .*max_bad=5.0%.*no caption 2"):
        annotate_shards(urls, build_annotator(CAPTIONS), tmp_path / "out", progress=False)
    path = write_tar(tmp_path / "in" / "none.tar", BAD)
    with pytest.raises(UserError, match="no good sample"):
        annotate_shards([str(path)], build_annotator(CAPTIONS), tmp_path / "out", progress=False, max_bad=1)


def test_shard_that_is_no_tar(tmp_path: Path) -> None:
    path = tmp_path / "text.tar"
    path.write_text("this is no tar" * 100)
    with pytest.raises(UserError, match="no good sample"):
        annotate_shards([str(path)], build_annotator(CAPTIONS), tmp_path / "out", progress=False)
    with pytest.raises(UserError, match=r"The shard .*gone.tar can't be read"):
        annotate_shards([str(tmp_path / "gone.tar")], build_annotator(CAPTIONS), tmp_path / "out", progress=False)


def test_captions_may_be_missing_where_they_are_not_needed(tmp_path: Path) -> None:
    faces = [{"key": f"f{i}", "meta": {"gender": "female" if i % 3 else "male", "age": 10 * i}} for i in range(6)]
    url = str(write_tar(tmp_path / "faces.tar", faces))
    annotator = build_annotator({"sources": [
        {"kind": "json", "field": "gender", "positive": "woman", "values": {"woman": "female", "man": "male"}},
        {"kind": "json", "field": "age", "attribute": "age_group", "bins": {"child": [0, 18], "adult": [18, None]}},
    ]})  # fmt: skip
    with pytest.raises(UserError, match="no caption 6"):
        annotate_shards([url], annotator, tmp_path / "out", progress=False)
    files = annotate_shards([url], annotator, tmp_path / "out2", progress=False, need_caption=False)
    found = read_attributes(files[0])
    assert found.s_names == ["woman", "age_group=child", "age_group=adult"]
    assert found.s.tolist() == [[0, 1, 0], [1, 1, 0], [1, 0, 1], [0, 0, 1], [1, 0, 1], [1, 0, 1]]


def test_keys_repeated_across_shards_are_reported(tmp_path: Path) -> None:
    urls = [str(write_tar(tmp_path / f"{i}.tar", pairs("same-", 3 + i))) for i in range(2)]
    summaries: list[Summary] = []
    annotate_shards(urls, build_annotator(CAPTIONS), tmp_path / "out", progress=False, report=summaries.append)
    assert summaries[0].repeated == [(f"same-{i:03d}", 2) for i in range(3)]
    assert "'same-000' (2 times)" in summaries[0].lines()[-1]


def test_processes_write_the_same_files(tmp_path: Path) -> None:
    urls = bad_shards(tmp_path / "in")
    annotator = build_annotator(CAPTIONS)
    one = annotate_shards(urls, annotator, tmp_path / "one", progress=False, max_bad=1)
    two = annotate_shards(urls, annotator, tmp_path / "two", progress=False, max_bad=1, workers=2)
    assert contents(one) == contents(two)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # Ray's own
def test_ray_writes_the_same_files(tmp_path: Path) -> None:
    urls = bad_shards(tmp_path / "in")
    annotator = build_annotator(CAPTIONS)
    local: list[Summary] = []
    ray: list[Summary] = []
    one = annotate_shards(urls, annotator, tmp_path / "one", progress=False, max_bad=1, report=local.append)
    two = annotate_shards(urls, annotator, tmp_path / "two", progress=False, max_bad=1, engine="ray", report=ray.append)
    assert [p.name for p in one] == [p.name for p in two]
    assert contents(one) == contents(two)
    assert local[0].bad == ray[0].bad


def table_config(path: Path, **more: Any) -> dict[str, Any]:
    return {"sources": [
        {"kind": "table", "path": str(path), "field": "gender", "positive": "woman",
         "values": {"woman": ["f"], "man": ["m"]}, **more},
    ]}  # fmt: skip


def test_table_joined_on_key(shards: list[str], tmp_path: Path) -> None:
    path = tmp_path / "labels.parquet"
    keys = [f"{i}-{j:03d}" for i in range(3) for j in range(12)]
    pq.write_table(pa.table({"key": keys[::-1], "gender": ["m" if k[0] == "1" else "f" for k in keys[::-1]]}), path)
    files = annotate_shards(shards, build_annotator(table_config(path)), tmp_path / "out", progress=False)
    assert [read_attributes(f).s.mean() for f in files] == [1, 0, 1]


def test_table_that_lacks_keys_is_an_error_that_names_the_shard(shards: list[str], tmp_path: Path) -> None:
    path = tmp_path / "labels.parquet"
    pq.write_table(pa.table({"key": [f"{i}-{j:03d}" for i in range(2) for j in range(12)], "gender": ["m"] * 24}), path)
    with pytest.raises(UserError, match=r"s-2\.tar.*labels\.parquet lacks 12 of 12 keys, '2-000' the first"):
        annotate_shards(shards, build_annotator(table_config(path)), tmp_path / "out", progress=False)
    files = annotate_shards(
        shards, build_annotator(table_config(path, missing="unknown")), tmp_path / "out", progress=False
    )
    assert np.isnan(read_attributes(files[2]).s).all()


def test_attribute_file_that_lacks_keys_names_the_shard(shards: list[str], tmp_path: Path) -> None:
    files = annotate_shards(shards, build_annotator(CAPTIONS), tmp_path / "out", progress=False)
    table = pq.read_table(files[1])
    pq.write_table(table.slice(2), files[1])
    with pytest.raises(UserError, match=r"lacks 2 of the 12 keys of the shard .*s-1\.tar"):
        find_files(shards, tmp_path / "out")
    annotate_shards(shards, build_annotator(CAPTIONS), tmp_path / "out", progress=False)
    assert find_files(shards, tmp_path / "out") == files


def test_table_of_detections(tmp_path: Path) -> None:
    url = str(write_tar(tmp_path / "s.tar", pairs("k-", 3)))
    path = tmp_path / "detections.parquet"
    rows = {
        "image": ["k-000", "k-000", "k-000", "k-001"],
        "label": ["Tie", "dress", "tie", "tie"],
        "p": [0.9, 0.8, 0.7, 0.1],
    }
    pq.write_table(pa.table(rows), path)
    source = {"kind": "table", "path": str(path), "key": "image", "field": "label", "concepts": ["tie", "dress"],
              "score": "p", "min_score": 0.5, "missing": "unknown", "proxies": True}  # fmt: skip
    annotator = build_annotator({"sources": [{"kind": "captions", "attributes": ["gender"]}, source]})
    found = read_attributes(annotate_shards([url], annotator, tmp_path / "out", progress=False)[0])
    assert found.y.tolist() == [[1, 1], [0, 0], [0, 0]]
    assert annotator.proxies == ["tie", "dress"]


def test_the_command(shards: list[str], tmp_path: Path) -> None:
    command = ["scripts/annotate.py", f"data.train={tmp_path}/in/s-{{0..2}}.tar", "attributes=captions",
               f"out={tmp_path}/out", "workers=0", "progress=false"]  # fmt: skip
    done = start(*command)
    assert done.returncode == 0, done.stderr
    assert "3 shards (0 done before), 36 good samples, 0 bad" in done.stdout
    assert len(list((tmp_path / "out").glob("*.parquet"))) == 3
    done = start(*command, "outt=x")
    assert done.returncode == 2
    assert "outt" in done.stderr
    assert "Traceback" not in done.stderr


def test_picture_bytes_are_pictures() -> None:
    assert picture()[:2] == b"\xff\xd8"


def test_training_uses_files_made_before_and_gets_the_same(shards: list[str], tmp_path: Path) -> None:
    balance = {"name": "m4", "target": {"woman": 0.5}, "keep": 0.6}
    made = tmp_path / "made"
    annotate_shards(shards, build_annotator(CAPTIONS), made, progress=False)
    on_the_fly = prepare_balance(shards, CAPTIONS, balance, tmp_path / "cache", progress=False)
    from_files = prepare_balance(shards, {"files": str(made)}, balance, tmp_path / "cache2", progress=False)
    assert from_files.hash == on_the_fly.hash
    assert contents(from_files.files) == contents(on_the_fly.files)
    assert not (tmp_path / "cache2").exists()
    s, y = np.array([[1.0], [0.0], [NAN]]), read_attributes(on_the_fly.files[0]).y[:3]
    np.testing.assert_array_equal(from_files.rates(s, y), on_the_fly.rates(s, y))


def test_files_made_before_must_fit(shards: list[str], tmp_path: Path) -> None:
    annotate_shards(shards[:2], build_annotator(CAPTIONS), tmp_path / "out", progress=False)
    with pytest.raises(UserError, match=r"1 of 3 shards have no attribute file .*s-2\.tar"):
        find_files(shards, tmp_path / "out")
    write_tar(Path(shards[1]), pairs("new-", 3))
    with pytest.raises(UserError, match=r"s-1\.tar has changed"):
        find_files(shards[:2], tmp_path / "out")
    other = {"sources": [{**CAPTIONS["sources"][0], "both": "probability"}]}
    annotate_shards(shards[1:2], build_annotator(other), tmp_path / "out", progress=False)
    with pytest.raises(UserError, match="another way"):
        find_files(shards[:2], tmp_path / "out")
