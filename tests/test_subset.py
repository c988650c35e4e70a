"""A plan's choice as files for other trainers, each read by what it is for, or a reader of the published format."""

import hashlib
import json
import os
import tarfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import webdataset as wds

from balance.errors import UserError
from balance.labels.annotate import annotate_shards
from balance.labels.attributes import build_annotator, read_attributes
from balance.m4.cells import Cells
from balance.m4.counting import count_parquet
from balance.m4.plan import Plan
from balance.m4.planfile import save_plan
from balance.m4.problem import Problem
from balance.m4.solve import solve
from balance.stream.accepted import AcceptedMoments
from balance.stream.balanced import shard_repeats
from balance.stream.reading import read_shard
from balance.subset import tars
from balance.subset.choice import Choice
from scripts import subset
from tests.commands import start
from tests.tiny import ATTRIBUTES, people_meta, people_shards, write_tar

SIZES = [60, 5, 90, 45]


def uid_of(number: int) -> str:
    return hashlib.md5(str(number).encode()).hexdigest()


class Data:
    """Shards whose samples have an id in their JSON, their attribute files, and a saved plan."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.shards = people_shards(folder / "shards", SIZES, lambda n: {**people_meta(n), "uid": uid_of(n)})
        annotator = build_annotator(ATTRIBUTES)
        self.files = annotate_shards(self.shards, annotator, folder / "attributes", progress=False)
        cells = count_parquet([str(file) for file in self.files])
        self.plan: Plan = solve(cells, Problem(target={"woman": 0.5}, keep=0.8, max_repeat=2.0))
        save_plan(self.plan, folder / "plan")

    def command(self, form: str, out: Path, *more: str) -> None:
        """Run scripts/subset.py in this process, in which it works alone."""
        given = [f"plan={self.folder}/plan", f"attributes={self.folder}/attributes", f"format={form}", f"out={out}"]
        subset.main([*given, "workers=0", "progress=false", *more])

    def drawn(self, epoch: int = 0, seed: int = 0, holdout: float = 0.0) -> Counter[str]:
        """How often the training stream uses each key of an epoch."""
        found: Counter[str] = Counter()
        for file in self.files:
            read = read_attributes(file)
            uses = shard_repeats(read, self.plan.rates, seed, epoch, holdout)
            found.update(dict(zip(read.keys, uses.tolist(), strict=True)))
        return +found


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Data:
    return Data(tmp_path_factory.mktemp("subset"))


def members(shard: Path | str) -> Iterator[tuple[str, bytes]]:
    with tarfile.open(shard) as tar:
        for one in tar:
            file = tar.extractfile(one)
            assert file is not None
            yield one.name, file.read()


def original(name: str) -> str:
    """The member that a repeated one is of."""
    key, _, extension = name.partition(".")
    return f"{key.partition('_use')[0]}.{extension}"


def test_weights_are_rates_and_the_uses_that_the_stream_draws(data: Data, tmp_path: Path) -> None:
    data.command("weights", tmp_path / "w.parquet", "seed=5", "epoch=2", "epochs=3")
    table = pd.read_parquet(tmp_path / "w.parquet")
    assert list(table.columns) == ["key", "shard", "rate", "uses_2", "uses_3", "uses_4"]
    assert len(table) == sum(SIZES)
    for epoch in (2, 3, 4):
        uses = Counter(dict(zip(table["key"], table[f"uses_{epoch}"], strict=True)))
        assert +uses == data.drawn(epoch, seed=5)
    read = read_attributes(data.files[2])
    third = table[table["shard"] == data.shards[2]]
    assert third["key"].tolist() == read.keys
    np.testing.assert_array_equal(third["rate"], data.plan.rates(read.s, read.y))
    totals = pd.read_csv(tmp_path / "w.shards.csv")
    assert totals["shard"].tolist() == data.shards
    assert totals["samples"].tolist() == SIZES
    sums = table.groupby("shard", observed=True)
    np.testing.assert_allclose(totals["mean_rate"], sums["rate"].mean())
    assert totals["uses_3"].tolist() == sums["uses_3"].sum().tolist()


def test_held_out_samples_are_in_no_form(data: Data, tmp_path: Path) -> None:
    data.command("keys", tmp_path / "k.txt", "holdout=0.3")
    assert Counter((tmp_path / "k.txt").read_text().splitlines()) == data.drawn(holdout=0.3) != data.drawn()
    data.command("weights", tmp_path / "w.parquet", "holdout=0.3")
    table = pd.read_parquet(tmp_path / "w.parquet")
    assert set(table["key"][table["rate"] > 0]) < set(table["key"])
    assert (table["uses_0"][table["rate"] == 0] == 0).all()


def test_the_moments_of_many_epochs_are_those_of_the_plan(
    data: Data, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data.command("weights", tmp_path / "w.parquet", "epochs=40")
    planned = data.plan.after.representation[0]
    assert f"share of woman: {planned:.3f}"[:-1] in capsys.readouterr().out
    table = pd.read_parquet(tmp_path / "w.parquet").set_index("key")
    accepted = AcceptedMoments(data.plan.cells.s_names, data.plan.cells.y_names)
    for file in data.files:
        read = read_attributes(file)
        uses = table.loc[read.keys].filter(like="uses_").sum(axis=1)
        accepted.add(read.s, read.y, uses.to_numpy(np.float32))
    assert accepted.representation[0] == pytest.approx(planned, abs=5e-3)
    np.testing.assert_allclose(accepted.inside[0], data.plan.after.concept_share[0], atol=0.02)


def datacomp_subset(path: Path) -> Counter[str]:
    """Read ids as DataComp describes them: upper and lower 64 bits of the hex number, sorted; repeats count."""
    ids = np.load(path, mmap_mode="r")
    assert ids.dtype == np.dtype("u8,u8")
    found = [int(one["f0"]) << 64 | int(one["f1"]) for one in ids]
    assert found == sorted(found)
    for one in found[:: max(1, len(found) // 20)]:  # as a bisecting reader looks them up
        key = np.array([divmod(one, 2**64)], ids.dtype)[0]
        assert np.searchsorted(ids, key, "right") - np.searchsorted(ids, key, "left") == found.count(one)
    return Counter(f"{one:032x}" for one in found)


def uids_drawn(data: Data, seed: int = 0) -> Counter[str]:
    return Counter({uid_of(int(key)): uses for key, uses in data.drawn(seed=seed).items()})


def test_uids_are_datacomps(data: Data, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"is no id of 32 hex digits; name the shards by data\.train"):
        data.command("uids", tmp_path / "u.npy")
    data.command("uids", tmp_path / "u.npy", f"data.train={data.folder}/shards", "seed=3")
    found = datacomp_subset(tmp_path / "u.npy")
    assert found == uids_drawn(data, seed=3)
    assert max(found.values()) == 2


def test_uids_are_found_in_the_table_beside_a_shard(data: Data, tmp_path: Path) -> None:
    url = tmp_path / "00000.tar"
    url.write_bytes(Path(data.shards[0]).read_bytes())
    (file,) = annotate_shards([str(url)], build_annotator(ATTRIBUTES), tmp_path / "attributes", progress=False)
    keys = read_attributes(file).keys
    pq.write_table(pa.table({"key": keys, "uid": [f"{n:032x}" for n in range(60)]}), tmp_path / "00000.parquet")
    Data.command(data, "uids", tmp_path / "u.npy", f"data.train={url}", f"attributes={tmp_path}/attributes")
    uses = {f"{keys.index(key):032x}": n for key, n in data.drawn().items() if key in keys}
    assert datacomp_subset(tmp_path / "u.npy") == Counter(uses)


def test_keys_that_are_ids_need_no_shards(data: Data, tmp_path: Path) -> None:
    rows = [(uid_of(n), {"jpg": b"", "json": json.dumps(people_meta(n)).encode()}) for n in range(50)]
    url = str(write_tar(tmp_path / "shards" / "a.tar", rows))
    annotator, folder = build_annotator(ATTRIBUTES), tmp_path / "attributes"
    (file,) = annotate_shards(
        [url], annotator, folder, progress=False, check_images=False, need_caption=False, max_bad=1
    )
    os.unlink(url)
    Data.command(data, "uids", tmp_path / "u.npy", f"attributes={folder}")
    uses = shard_repeats(read_attributes(file), data.plan.rates, 0, 0)
    assert datacomp_subset(tmp_path / "u.npy") == +Counter(
        dict(zip(read_attributes(file).keys, uses.tolist(), strict=True))
    )


def test_shards_hold_the_samples_byte_for_byte_and_repeats_apart(data: Data, tmp_path: Path) -> None:
    out = tmp_path / "new"
    data.command("shards", out, f"data.train={data.folder}/shards", "seed=1")
    wanted = {name: content for shard in data.shards for name, content in members(shard)}
    names = [name for shard in sorted(out.glob("*.tar")) for name, _ in members(shard)]
    assert len(names) == len(set(names))
    found: Counter[str] = Counter()
    for shard in sorted(out.glob("*.tar")):
        for name, content in members(shard):
            assert content == wanted[original(name)]
            found[original(name)] += 1
    uses = data.drawn(seed=1)
    assert found == Counter({f"{key}.{one}": n for key, n in uses.items() for one in ("jpg", "txt", "json")})
    assert json.loads((out / "sizes.json").read_text()) == {
        shard.name: len(list(read_shard(str(shard)))) for shard in out.glob("*.tar")
    }
    # First uses come before second ones, so that a small shuffle buffer keeps repeats apart.
    keys = [sample["__key__"] for sample in read_shard(str(out / "00000.tar"))]
    repeated = ["_use2" in key for key in keys]
    assert repeated == sorted(repeated)
    assert any(repeated)


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_webdataset_reads_new_shards(data: Data, tmp_path: Path) -> None:
    data.command("shards", tmp_path / "new", f"data.train={data.folder}/shards")
    sizes = json.loads((tmp_path / "new" / "sizes.json").read_text())
    dataset = wds.WebDataset([str(tmp_path / "new" / name) for name in sizes], shardshuffle=False).decode("rgb")
    samples = [(sample["__key__"].partition("_use")[0], sample["jpg"].shape) for sample in dataset]
    assert Counter(key for key, _ in samples) == data.drawn()
    assert {shape for _, shape in samples} == {(16, 16, 3)}
    assert len(samples) == sum(sizes.values())


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_interrupted_and_resumed_gives_the_same_shards(data: Data, tmp_path: Path, monkeypatch: Any) -> None:
    train = f"data.train={data.folder}/shards"
    data.command("shards", tmp_path / "whole", train)
    real = tars._write
    written: list[str] = []

    def interrupted(tar: Any, key: str, raw: Any) -> int:
        written.append(key)
        if len(written) == 60:  # in the midst of the second shard, or the third
            raise KeyboardInterrupt
        return real(tar, key, raw)

    with monkeypatch.context() as patch:
        patch.setattr(tars, "_write", interrupted)
        with pytest.raises(KeyboardInterrupt):
            data.command("shards", tmp_path / "cut", train)
    done = contents(tmp_path / "cut")
    assert "sizes.json" not in done
    assert sum(name.endswith(".tar") for name in done) in (1, 2)
    assert all(not name.startswith(".") for name in done)
    first = (tmp_path / "cut" / "00000.tar").stat().st_mtime_ns
    data.command("shards", tmp_path / "cut", train)
    assert contents(tmp_path / "cut") == contents(tmp_path / "whole")
    assert (tmp_path / "cut" / "00000.tar").stat().st_mtime_ns == first
    # What was cut short since is written anew.
    (tmp_path / "cut" / "00001.tar").write_bytes(b"half")
    data.command("shards", tmp_path / "cut", train)
    assert contents(tmp_path / "cut") == contents(tmp_path / "whole")


@pytest.mark.slow
def test_processes_write_the_same_and_the_command_runs_anywhere(data: Data, tmp_path: Path) -> None:
    data.command("shards", tmp_path / "alone", f"data.train={data.folder}/shards", "epochs=2")
    given = ["plan=plan", "attributes=attributes", "format=shards", "data.train=shards", f"out={tmp_path}/together"]
    done = start("scripts/subset.py", *given, "epochs=2", "workers=2", folder=data.folder)
    assert done.returncode == 0, done.stderr
    assert contents(tmp_path / "together") == contents(tmp_path / "alone")
    assert "copy: " in done.stderr
    uses = sum((data.drawn(epoch) for epoch in (0, 1)), Counter())
    assert f"{uses.total():,} samples in 4 shards" in done.stdout


def test_a_shard_that_is_not_used_leaves_no_gap(data: Data, tmp_path: Path) -> None:
    shards = tars.new_shards(["a", "b", "c"], data.files[:3], [4, 0, 2], tmp_path)
    assert [(shard.path.name, shard.url) for shard in shards] == [("00000.tar", "a"), ("00001.tar", "c")]


def test_a_name_that_is_taken_is_not_given(tmp_path: Path) -> None:
    assert tars._name("a", 1, {"a", "a_use2", "a_use2_"}) == "a_use2__"


def test_what_does_not_fit_is_refused(data: Data, tmp_path: Path) -> None:
    train = f"data.train={data.folder}/shards"
    data.command("shards", tmp_path / "new", train)
    with pytest.raises(UserError, match="holds a subset by another plan, seed, epoch or data"):
        data.command("shards", tmp_path / "new", train, "seed=9")
    with pytest.raises(UserError, match="holds shards that are no subset"):
        data.command("shards", data.folder / "shards", train)
    with pytest.raises(UserError, match=r"format=shards copies samples: name the shards by data\.train"):
        data.command("shards", tmp_path / "other")
    with pytest.raises(UserError, match="epochs=0 must be a whole number of at least 1"):
        data.command("keys", tmp_path / "k.txt", "epochs=0")
    with pytest.raises(UserError, match=r"must be a file that ends in \.npy"):
        data.command("uids", tmp_path / "k.txt")
    with pytest.raises(UserError, match=r"sed is no setting \(did you mean 'seed'"):
        data.command("keys", tmp_path / "k.txt", "sed=1")
    with pytest.raises(UserError, match="format=tars is none of"):
        data.command("tars", tmp_path / "k.txt")
    cells = Cells.from_arrays(np.array([[1.0], [0.0]]), np.zeros((2, 1)), None, ["girl"], ["x"])
    other = solve(cells, Problem(target={"girl": 0.5}))
    with pytest.raises(UserError, match="has other attributes or concepts than the plan"):
        Choice(other).read(data.files[0])


def test_a_shard_that_has_lost_samples_is_refused(data: Data, tmp_path: Path) -> None:
    url = tmp_path / "a.tar"
    url.write_bytes(Path(data.shards[2]).read_bytes())
    (file,) = annotate_shards([str(url)], build_annotator(ATTRIBUTES), tmp_path / "attributes", progress=False)
    short = write_tar(tmp_path / "b.tar", [(key, {"jpg": b"x"}) for key in read_attributes(file).keys[:-30]])
    with pytest.raises(UserError, match="has changed: label it again"):
        tars.write_shard(Choice(data.plan), tars.NewShard(tmp_path / "new.tar", str(short), file, 1))
    assert not (tmp_path / "new.tar").exists()
