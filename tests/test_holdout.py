"""A share of the training data that is held out by key: measured on, counted nowhere, and never trained on."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

import train
from balance.common.holdout import held_out, sql_of_kept
from balance.common.metric import read_metrics
from balance.errors import UserError
from balance.labels.annotate import annotate_shards
from balance.labels.annotators import build_annotator
from balance.labels.attributes import read_attributes
from balance.m4.counting import count_parquet
from balance.stream.balanced import BalancedStream, StreamConfig, uniform_rates
from balance.stream.shards import expand_shards
from conf.app.cli import compose
from conf.app.saved_config import read_stored
from eval import sets
from eval.runner import build_suite
from eval.sets import HeldOut, MissingSet, load_set
from eval.wording import concepts_by_wording
from tests.launching import model_overrides
from tests.test_stream import tokens
from tests.tiny import ATTRIBUTES, people_shards, sample, write_tar

SHARE = 0.2
FOREVER = [
    1910,
    2980,
    4335,
    4399,
    6059,
    7178,
    8463,
    8496,
    12893,
    14525,
    14728,
    16567,
]  # of 20,000 at 0.0005
JOBS = ("nurse", "chef", "farmer")


@pytest.fixture(scope="module")
def connection() -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect() as opened:
        yield opened


@given(st.lists(st.text(max_size=20), min_size=1, max_size=20), st.floats(0, 0.5))
def test_the_database_and_the_stream_hold_out_the_same(
    connection: duckdb.DuckDBPyConnection, keys: list[str], share: float
) -> None:
    keys = [key.encode("utf-8", "ignore").decode().replace("\0", "") for key in keys]
    table = pa.table({"key": pa.array(keys, pa.string())})
    kept = connection.from_arrow(table).project(f"({sql_of_kept(share)}) AS kept").fetchnumpy()["kept"]
    assert held_out(keys, share).tolist() == (~kept.astype(bool)).tolist()
    assert not (held_out(keys, share / 2) & ~held_out(keys, share)).any()


def test_the_share_is_the_one_asked_for_and_the_split_is_forever() -> None:
    keys = [f"{number:09d}" for number in range(20_000)]
    for share in (0.02, 0.5):
        assert abs(held_out(keys, share).mean() - share) < 4 * (share * (1 - share) / len(keys)) ** 0.5
    assert not held_out(keys, 0).any()
    assert np.flatnonzero(held_out(keys, 0.0005)).tolist() == FOREVER


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return people_shards(tmp_path_factory.mktemp("people"), [60, 5, 90, 45])


@pytest.fixture(scope="module")
def files(shards: list[str]) -> list[Path]:
    return annotate_shards(shards, build_annotator(ATTRIBUTES), Path(shards[0]).parent / "attributes", progress=False)


def keys_of(files: list[Path]) -> tuple[set[str], set[str]]:
    """(held out, kept)."""
    keys = [key for file in files for key in read_attributes(file).keys]
    held = {key for key, out in zip(keys, held_out(keys, SHARE), strict=True) if out}
    return held, set(keys) - held


def test_what_is_held_out_is_counted_nowhere(files: list[Path]) -> None:
    held, kept = keys_of(files)
    assert len(held) > 20
    assert count_parquet([str(file) for file in files], holdout=SHARE).total == len(kept)
    with pytest.raises(UserError, match=r"hold no samples beside those held out by holdout=1: lower it"):
        count_parquet([str(file) for file in files], holdout=1)


@pytest.mark.parametrize(("world", "workers"), [(1, 0), (1, 2), (3, 0)])
def test_no_process_trains_on_what_is_held_out(shards: list[str], files: list[Path], world: int, workers: int) -> None:
    held, kept = keys_of(files)
    seen: set[str] = set()
    for rank in range(world):
        config = StreamConfig(8, 16, shuffle=20, rank=rank, world=world, workers=workers, holdout=SHARE)
        stream = BalancedStream(shards, files, uniform_rates, config, tokens)
        assert sum(stream.counts(0)) == len(kept)
        for batch in islice(stream, 2 * stream.batches_in(stream.counts(0))):
            seen |= set(batch.keys)
    assert not seen & held
    assert len(seen) > 0.9 * len(kept)


def test_the_set_is_what_the_stream_leaves_out(
    shards: list[str], files: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    held, _ = keys_of(files)
    found = load_set("held_out", {"path": HeldOut(shards, SHARE)})
    assert set(found.keys) == held
    assert all(found.captions)
    commands = expand_shards([f"pipe:cat {shard}" for shard in shards], allow_pipe=True)
    assert set(load_set("held_out", {"path": HeldOut(commands, SHARE)}).keys) == held
    monkeypatch.setattr(sets, "MOST_HELD", 7)
    few = load_set("held_out", {"path": HeldOut(shards[::-1], SHARE)})
    assert len(few) == len(few.keys) == len(few.labels) == len(few.captions) == 7
    assert set(few.keys) < held
    assert few.keys == load_set("held_out", {"path": HeldOut(shards, SHARE)}).keys


def test_damaged_shards_lose_their_share_of_what_is_held_out(shards: list[str], tmp_path: Path) -> None:
    whole = Path(shards[2]).read_bytes()
    (tmp_path / "cut.tar").write_bytes(whole[: len(whole) // 2] + b"\xff" * (len(whole) // 2))
    found = load_set("held_out", {"path": HeldOut([*shards, str(tmp_path / "cut.tar")], SHARE)})
    (lost,) = found.bad.values()
    assert 4 <= lost <= 14  # a fifth of the 45 or so


def test_too_few_to_measure_on_is_a_note(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "t.tar", [("a", sample(1)), ("b", sample(2))])
    with pytest.raises(MissingSet, match=r"data\.holdout=1e-09 holds out 0 of the training samples, too few"):
        load_set("held_out", {"path": HeldOut([str(path)], 1e-9)})
    suite = build_suite({}, {}, held_out=HeldOut([str(path)], 1e-9))
    assert suite.skipped == [f"retrieval is skipped: {suite.absent['retrieval']}"]


def test_what_captions_mention_is_a_label() -> None:
    captions = [["A nurse.", "A woman."], ["A chef and a nurse."], ["A boat."], []]
    found = concepts_by_wording(captions, ["occupations", "sports"])
    assert found == [{"caption_concept": name} for name in ("nurse", "several", "not mentioned")] + [{}]
    with pytest.raises(UserError, match="is an attribute list"):
        concepts_by_wording(captions, ["gender"])


def captions(n: int) -> list[str]:
    who, job = ("man", "woman")[n % 2], JOBS[n % 3]
    told = (f"A {who} {n}.", f"A {job} at work {n}.", f"A {who} working as a {job} {n}.", f"A red boat {n}.")
    return [told[n // 6 % 4]]


@pytest.fixture(scope="module")
def own_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("own")
    for shard in range(2):
        rows = [(f"{n:05d}", sample(n % 50) | {"txt": captions(n)[0].encode()}) for n in range(shard, 480, 2)]
        write_tar(folder / f"{shard}.tar", rows)
    return folder


def own_run(data: Path, runs: Path, *more: str) -> int:
    common = ["data=wds", f"data.train={data}", "data.workers=0", "data.batch_size=16", "attributes=captions"]
    common += ["track=none", "device=cpu", "precision=fp32", f"runs={runs}", "eval.bootstrap=20", "schedule.epochs=2"]
    common += ["balance.min_concept_samples=5", "name=mine", "schedule.epoch_samples=160"]
    return train.main(compose([*common, *model_overrides(), *more]))


def test_own_data_is_measured_by_default(
    own_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bias and quality, also after a resume; and what is measured was not trained on."""
    monkeypatch.setenv("COUNTERBALANCE_DATA", str(tmp_path / "nothing"))
    trained: set[str] = set()
    step = train.Trainer.step

    def watched(run: Any, batch: Any) -> Any:
        trained.update(batch.keys)
        return step(run, batch)

    monkeypatch.setattr(train.Trainer, "step", watched)
    holdout = f"data.holdout={SHARE}"
    assert own_run(own_data, tmp_path, holdout, "schedule.epochs=1") == 0
    held = {key for key in (f"{n:05d}" for n in range(480)) if held_out([key], SHARE)[0]}
    said = f"Held out by key: {len(held)} of 480 samples ({len(held) / 480:.2%}; data.holdout=0.2), never trained on"
    assert f"{said}; evaluations measure {len(held)} of them." in capsys.readouterr().out
    names = {row["name"]: row for row in read_metrics(tmp_path / "mine/metrics.jsonl")}
    quality = {"retrieval/image_to_text_r5", "zeroshot_held_out/top1"}
    bias = {"parity_held_out/mean_parity", "association_held_out/max", "weat/mean_size"}
    assert quality | bias <= names.keys()
    assert names["retrieval/image_to_text_r5"]["count"] == len(held)
    report = (tmp_path / "mine/report.html").read_text()
    assert "model AB (held-out pictures)" in report
    assert "Nothing has been measured yet" not in report
    assert own_run(own_data, tmp_path, holdout, "resume=true", "schedule.epochs=2") == 0
    assert len(trained) > 200
    assert not trained & held


def test_a_dry_run_says_what_is_held_out(
    own_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COUNTERBALANCE_DATA", str(tmp_path / "nothing"))
    assert own_run(own_data, tmp_path, f"data.holdout={SHARE}", "dry_run=true") == 0
    assert "Held out by key: " in capsys.readouterr().out
    assert own_run(own_data, tmp_path, "data.holdout=0", "dry_run=true", "eval.evaluators={}") == 0
    told = capsys.readouterr().out
    assert "Held out" not in told
    assert "neither data.eval nor data.holdout holds any" in told


def test_a_run_from_before_there_was_a_holdout_goes_on_without(straight: Path, tmp_path: Path) -> None:
    plain: Any = OmegaConf.to_container(OmegaConf.load(straight / "config.yaml"))
    del plain["data"]["holdout"]
    OmegaConf.save(OmegaConf.create(plain), tmp_path / "config.yaml")
    assert OmegaConf.select(read_stored(tmp_path), "data.holdout") == 0


def test_the_demo_has_sets_of_its_own() -> None:
    assert compose([]).data.holdout == 0
    assert compose(["data=wds", "data.train=x"]).data.holdout == 0.02
