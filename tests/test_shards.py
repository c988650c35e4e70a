"""Naming shards and reading samples, with all the ways in which that goes wrong."""

import gzip
import json
from pathlib import Path

import pytest

from balance.errors import UserError
from balance.stream.damage import Damage
from balance.stream.samples import BadSample, parse_sample, read_shard
from balance.stream.shards import expand_shards, shared_shards
from balance.stream.tarwalk import CUT, EMPTY
from tests.tiny import people_shards, picture, sample, write_tar


def test_all_ways_to_name_shards(tmp_path: Path) -> None:
    shards = people_shards(tmp_path, [1, 1, 1])
    assert expand_shards(str(tmp_path)) == shards
    assert expand_shards(str(tmp_path / "train-*.tar")) == shards
    assert expand_shards(str(tmp_path / "train-{00000..00002}.tar")) == shards
    assert expand_shards(str(tmp_path / "train-{00000,00002}.tar")) == [shards[0], shards[2]]
    assert expand_shards(shards) == shards
    assert expand_shards("https://host/{0..1}.tar") == ["https://host/0.tar", "https://host/1.tar"]


def test_shards_are_the_same_by_whichever_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shards = people_shards(tmp_path / "train", [1, 1])
    copy = people_shards(tmp_path / "copy", [1, 1])
    (tmp_path / "linked.tar").symlink_to(shards[0])
    monkeypatch.chdir(tmp_path / "copy")
    other_paths = ["../train/train-00001.tar", str(tmp_path / "linked.tar")]
    addresses = ["https://host/0.tar", "pipe:cat 0.tar"]
    assert shared_shards([*other_paths, *copy, addresses[0]], [*shards, *addresses]) == [*other_paths, addresses[0]]


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        ("{}/none-*.tar", "nothing matches"),
        ("{}/train-{{00000..00005}}.tar", r"nothing matches .*00003.tar.*holds 3 .tar files"),
        ("{}/nowhere/x.tar", "there is no folder"),
        ("{}/empty", "without any .tar"),
        ("", "names no shards"),
        ("pipe:cat {}/train-00000.tar", "would run a shell command"),
    ],
)
def test_bad_names_are_told(tmp_path: Path, spec: str, sentence: str) -> None:
    people_shards(tmp_path, [1, 1, 1])
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=sentence):
        expand_shards(spec.format(tmp_path))


def test_a_folder_gives_packed_and_linked_shards_each_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    data, elsewhere = tmp_path / "data", tmp_path / "elsewhere"
    names = ["a.tar", "b.tar.gz", "c.tgz", "d.tar.zst", "e.tar.bz2", "f.tar.xz", "G.TAR", "sub/h.txz", "sub/i.tzst"]
    for name in [*names, "a.json", "a.parquet", "j.zip", "k.tar.lz4", "l.tar.part", "._a.tar"]:
        (data / name).parent.mkdir(parents=True, exist_ok=True)
        (data / name).touch()
    elsewhere.mkdir()
    (elsewhere / "m.tar").touch()
    (data / "linked").symlink_to(elsewhere, target_is_directory=True)
    (data / "again").symlink_to(elsewhere, target_is_directory=True)
    (data / "sub" / "up").symlink_to(data, target_is_directory=True)
    (data / "0.tar").symlink_to(data / "a.tar")
    wanted = sorted([*(str(data / name) for name in names), str(data / "again" / "m.tar")])
    assert expand_shards(str(data)) == wanted
    assert "passed over" in caplog.text
    assert all(name in caplog.text for name in ("j.zip", "k.tar.lz4", "l.tar.part"))
    assert "parquet" not in caplog.text
    assert expand_shards(data.as_uri()) == wanted
    assert expand_shards(str(data / "[a-c].*")) == [str(data / name) for name in ("a.tar", "b.tar.gz", "c.tgz")]
    assert expand_shards(str(data / "*" / "*.t*")) == [str(data / "again/m.tar"), *(str(data / n) for n in names[-2:])]
    assert expand_shards(str(data / "*")) == expand_shards(str(data / "**")) == wanted
    assert expand_shards(str(tmp_path / "el*")) == [str(elsewhere / "m.tar")]
    with pytest.raises(UserError, match=r"nothing matches .*holds 8 \.tar files"):
        expand_shards(str(data / "z*.tar"))


def test_a_folder_without_shards_says_what_it_holds(tmp_path: Path) -> None:
    for name in ("a.zip", "b.zip", "c.parquet"):
        (tmp_path / name).touch()
    with pytest.raises(UserError, match=r"without any \.tar file.* it holds 2 \.zip, 1 \.parquet"):
        expand_shards(str(tmp_path))


def test_a_star_in_a_remote_address_is_told() -> None:
    with pytest.raises(UserError, match=r"a server does not say which files match \*.*00000\.\.00099"):
        expand_shards("https://host/train-*.tar")


def test_a_shard_named_twice_is_an_error(tmp_path: Path) -> None:
    shards = people_shards(tmp_path, [1])
    with pytest.raises(UserError, match="more than once"):
        expand_shards([*shards, *shards])


def test_captions_come_from_the_json_list_or_the_text_or_the_json_string() -> None:
    base = {"__key__": "k", "jpg": picture(0)}
    lists = {"json": json.dumps({"captions": ["a", " ", "b "], "caption": "c"}).encode()}
    assert parse_sample({**base, "txt": b"t", **lists}).captions == ("a", "b")
    single = {"json": json.dumps({"caption": "c"}).encode()}
    assert parse_sample({**base, "txt": "Grüße".encode(), **single}).captions == ("Grüße",)
    assert parse_sample({**base, **single}).captions == ("c",)


@pytest.mark.parametrize(
    ("members", "cause"),
    [
        ({"txt": b"x"}, "no picture"),
        ({"jpg": b"x"}, "no caption"),
        ({"jpg": b"x", "txt": b"  "}, "no caption"),
        ({"jpg": b"x", "txt": b"caf\xe9"}, "caption is not UTF-8"),
        ({"jpg": b"x", "txt": b"x", "json": b"{"}, "unreadable JSON"),
        ({"jpg": b"x", "txt": b"x", "json": b"[1]"}, "unreadable JSON"),
        ({"jpg": b"x", "json": b'{"captions": [null, ""]}'}, "no caption"),
    ],
)
def test_bad_samples_have_a_cause(members: dict[str, bytes], cause: str) -> None:
    with pytest.raises(BadSample) as caught:
        parse_sample({"__key__": "k", **members})
    assert caught.value.cause == cause


@pytest.mark.parametrize(
    "name", ["a.tar", "a.stream"]
)  # walked by its headers, and read as a stream as remote ones are
def test_a_truncated_tar_gives_its_whole_samples_and_a_cause(tmp_path: Path, name: str) -> None:
    path = write_tar(tmp_path / name, [(f"{i}", sample(i)) for i in range(10)])
    assert [raw["__key__"] for raw in read_shard(str(path))] == [str(i) for i in range(10)]
    content = path.read_bytes()
    for cut in range(0, len(content.rstrip(b"\0")), 256):
        path.write_bytes(content[:cut])
        found: list[Damage] = []
        part = list(read_shard(str(path), found.append))
        assert [damage.cause for damage in found] == [CUT if cut else EMPTY]
        assert found[0].samples == len(part)
        for number, raw in enumerate(part):
            assert {k: v for k, v in raw.items() if not k.startswith("__")} == sample(number)
    with pytest.raises(UserError, match=f"{name} is damaged: cut short"):
        list(read_shard(str(path)))


def test_a_compressed_shard_is_read(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", [(f"{i}", sample(i)) for i in range(3)])
    packed = tmp_path / "a.tar.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    assert [raw["__key__"] for raw in read_shard(str(packed))] == ["0", "1", "2"]


def test_a_shard_that_is_gone_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"gone\.tar can't be read: No such file"):
        list(read_shard(str(tmp_path / "gone.tar")))
