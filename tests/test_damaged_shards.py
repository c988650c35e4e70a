"""Packed, joined and damaged shards: read by content, or named with their cause and with what they lost."""

import bz2
import gzip
import io
import json
import lzma
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import zstandard

from balance.errors import UserError
from balance.labels.annotate import annotate_shards
from balance.labels.annotate_ray import count_samples
from balance.labels.annotators import build_annotator
from balance.labels.attributes import read_attributes, read_meta
from balance.labels.summary import Summary, summarise
from balance.prepare import prepare_balance
from balance.stream.damage import Damage
from balance.stream.samples import read_shard
from balance.stream.tarwalk import CUT, DAMAGED_HEADER, EMPTY, ZEROS
from scripts.audit import main as audit
from tests.shard_tools import member, picture, write_tar
from tests.test_tarwalk import resign

CAPTIONS: dict[str, Any] = {"sources": [{"kind": "captions", "attributes": ["gender"], "concepts": ["occupations"]}]}
PACK: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "bzip2": bz2.compress,
    "xz": lzma.compress,
    "zstd": zstandard.ZstdCompressor(write_checksum=True).compress,
}
N = 20


def shard(path: Path, prefix: str = "k", n: int = N) -> Path:
    return write_tar(path, [{"key": f"{prefix}{i:03d}", "caption": "a woman nurse"} for i in range(n)])


def labelled(shards: list[Path], out: Path, max_bad: float = 1.0) -> Summary:
    found: list[Summary] = []
    annotate_shards([str(p) for p in shards], build_annotator(CAPTIONS), out, 0, False, max_bad, report=found.append)
    return found[0]


def keys(path: Path) -> list[str]:
    return [raw["__key__"] for raw in read_shard(str(path))]


@pytest.mark.parametrize("packing", PACK)
@pytest.mark.parametrize("name", ["a.tar", "a.tar.gz", "a.tgz", "a"])
def test_packing_is_recognised_by_content_whatever_the_name(tmp_path: Path, packing: str, name: str) -> None:
    plain = shard(tmp_path / "plain.tar", n=3)
    packed = tmp_path / name
    packed.write_bytes(PACK[packing](plain.read_bytes()))
    whole = [{**raw, "__url__": ""} for raw in read_shard(str(plain))]
    assert [{**raw, "__url__": ""} for raw in read_shard(str(packed))] == whole
    assert [{**raw, "__url__": ""} for raw in read_shard(packed.as_uri())] == whole


@pytest.mark.parametrize("packing", PACK)
def test_joined_and_cut_packed_shards(tmp_path: Path, packing: str) -> None:
    parts = [PACK[packing](shard(tmp_path / f"{i}.tar", f"{i}-", 4).read_bytes()) for i in range(2)]
    path = tmp_path / "joined.tar"
    path.write_bytes(b"".join(parts))
    assert keys(path) == [f"{i}-{j:03d}" for i in range(2) for j in range(4)]
    for cut in range(len(parts[0]) // 3, len(parts[0]) - 1, max(1, len(parts[0]) // 7)):
        path.write_bytes(parts[0][:cut])
        found: list[Damage] = []
        assert keys_before(path, found) == [f"0-{j:03d}" for j in range(found[0].samples)]
        assert found[0].cause == CUT
    middle = len(parts[0]) // 2
    path.write_bytes(parts[0][:middle] + b"\xff" * 64 + parts[0][middle + 64 :])
    found = []
    keys_before(path, found)
    assert found[0].cause in (f"damaged {packing} data", CUT)


def keys_before(path: Path, found: list[Damage]) -> list[str]:
    return [raw["__key__"] for raw in read_shard(str(path), found.append)]


def test_a_packed_tar_that_asks_for_gigabytes_of_memory_is_refused(tmp_path: Path) -> None:
    small = lzma.compress(b"\0" * 100, filters=[{"id": lzma.FILTER_LZMA2, "preset": 0}])
    damaged = bytearray(small)
    at = damaged.index(b"\x21\x01", 12) + 2  # the filter's properties: its size of a dictionary
    damaged[at] = 39  # 3 GiB
    end = 12 + (damaged[12] + 1) * 4
    damaged[end - 4 : end] = zlib.crc32(damaged[12 : end - 4]).to_bytes(4, "little")
    path = tmp_path / "a.tar"
    path.write_bytes(damaged)
    found: list[Damage] = []
    assert keys_before(path, found) == []
    assert found[0].cause == "damaged xz data"


@pytest.mark.parametrize("blocks", [2, 20, 128])
def test_joined_archives_are_read_one_after_another(tmp_path: Path, blocks: int) -> None:
    parts = [shard(tmp_path / f"{i}.tar", f"{i}-", 3).read_bytes().rstrip(b"\0") for i in range(3)]
    whole = b""
    for part in parts:
        part += b"\0" * (-len(part) % 512 + 1024)
        whole += part + b"\0" * (-len(part) % (blocks * 512))
    path = tmp_path / "joined.tar"
    path.write_bytes(whole)
    assert keys(path) == [f"{i}-{j:03d}" for i in range(3) for j in range(3)]
    assert keys(path) == [raw["__key__"] for raw in read_shard(path.as_uri())]


def flipped(data: bytes) -> bytes:
    """A bit of a header in the second half is not what it was."""
    at = data.index(b"k012.jpg") + 3
    return data[:at] + bytes([data[at] ^ 4]) + data[at + 1 :]


def hole(data: bytes) -> bytes:
    """A download that left a part of its file unwritten."""
    middle = len(data) // 2 // 512 * 512
    return data[:middle] + b"\0" * 4096 + data[middle + 4096 :]


BROKEN: dict[str, tuple[Callable[[bytes], bytes], str, int]] = {
    "cut": (lambda data: data[: len(data) // 20], CUT, 19),
    "cut in half": (lambda data: data[: len(data) // 2], CUT, 10),
    "cut at a member": (lambda data: data[: data.index(b"k010.jpg")], CUT, 10),
    "empty": (lambda data: b"", EMPTY, 20),
    "zeros": (lambda data: b"\0" * len(data), ZEROS, 20),
    "half zeros": (lambda data: data[: len(data) // 2].ljust(len(data), b"\0"), "zeros in place of its rest", 10),
    "hole": (hole, "zeros in its middle", 10),
    "no files": (lambda data: b"\0" * 10_240, "an archive without files", 20),
    "page": (lambda data: b"\n<html>502 Bad Gateway</html>", "an HTML or XML page", 20),
    "long page": (lambda data: b"<!DOCTYPE html>" + b"<p>x</p>" * 1000, "an HTML or XML page", 20),
    "S3": (lambda data: b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', "an HTML or XML page", 20),
    "pointer": (lambda data: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "a Git LFS pointer", 20),
    "zip": (lambda data: b"PK\x03\x04" + data, "a zip archive", 20),
    "noise": (lambda data: bytes(i * i % 251 for i in range(len(data))), "no tar archive", 20),
    "bit": (flipped, DAMAGED_HEADER, 8),
    "junk": (lambda data: data[:20_480] + b"\x07" * (len(data) - 20_480), DAMAGED_HEADER, 13),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_damaged_shard_is_named_with_its_cause_and_what_it_lost(tmp_path: Path, kind: str) -> None:
    damage, cause, lost = BROKEN[kind]
    whole = [shard(tmp_path / f"s-{i}.tar") for i in range(2)]
    bad = tmp_path / "bad.tar"
    bad.write_bytes(damage(whole[0].read_bytes()))
    summary = labelled([*whole, bad], tmp_path / "out")
    ((named, found),) = summary.damaged.items()
    assert named == str(bad)
    assert found.cause.startswith(cause)
    assert abs(summary.lost()[named] - lost) <= 3, summary.lines()
    assert not summary.bad
    with pytest.raises(
        UserError, match=r"(?s)bad or lost .*1 of 3 shards damaged, about \d+ samples lost: .*bad\.tar \("
    ):
        labelled([*whole, bad], tmp_path / "again", max_bad=0.05)
    # The files that were kept tell it again.
    kept = labelled([*whole, bad], tmp_path / "out")
    assert kept.done == 3
    assert kept.lines()[1:] == summary.lines()[1:]
    assert summarise(kept.files).damage() == summary.damage()


def test_an_index_beside_the_shard_tells_what_was_lost(tmp_path: Path) -> None:
    path = shard(tmp_path / "00000.tar")
    path.write_bytes(path.read_bytes()[:30_000])
    (tmp_path / "00000_stats.json").write_text(json.dumps({"count": 900, "successes": 512}))
    summary = labelled([path], tmp_path / "out")
    assert sum(summary.lost().values()) + summary.samples == 512
    assert "about" not in summary.damage()
    (tmp_path / "00000_stats.json").write_text("{")
    (tmp_path / "00000.idx").write_text("v1.2 30\njpg 0 0\n")
    assert sum(labelled([path], tmp_path / "second").lost().values()) + summary.samples == 30


def test_half_of_the_shards_broken_is_refused_everywhere(tmp_path: Path) -> None:
    kinds = [BROKEN[kind][0] for kind in ("cut", "page", "empty", "zeros", "junk")]
    shards = []
    for i in range(20):
        path = shard(tmp_path / f"s-{i:02d}.tar", f"{i}-" if i else "k")
        if i % 2:
            path.write_bytes(kinds[i // 2 % 5](path.read_bytes()))
        shards.append(path)
    with pytest.raises(UserError, match=r"10 of 20 shards damaged.*s-01\.tar.*s-03\.tar.*s-09\.tar.*and 5 more"):
        labelled(shards, tmp_path / "out", max_bad=0.05)
    names = [str(path) for path in shards]
    with pytest.raises(UserError, match="10 of 20 shards damaged"):  # of files that were made before
        prepare_balance(names, {"files": str(tmp_path / "out")}, {"method": "none"}, tmp_path / "cache", progress=False)
    balance = prepare_balance(
        names, {"files": str(tmp_path / "out")}, {"method": "none"}, tmp_path / "cache", 0.6, progress=False
    )
    assert any("10 of 20 shards damaged" in note for note in balance.notes)
    assert "10 of 20 shards damaged" in balance.losses[0]


def test_the_audit_names_damaged_shards(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad = shard(tmp_path / "in" / "bad.tar")
    bad.write_bytes(bad.read_bytes()[:20_000])
    summary = labelled([shard(tmp_path / "in" / "s.tar", "s"), bad], tmp_path / "out")
    capsys.readouterr()
    sentence = f"1 of 2 shards damaged, about {sum(summary.lost().values())} samples lost"
    audit([str(tmp_path / "out"), f"out={tmp_path}/audit", "bootstrap=100"])
    data = [f"data.train={tmp_path}/in", "attributes=captions"]
    audit([*data, "data.max_bad=0.5", f"out={tmp_path}/two", "bootstrap=100"])
    assert capsys.readouterr().out.count(sentence) == 2
    for folder in ("audit", "two"):
        page = (tmp_path / folder / "audit.html").read_text()
        assert sentence in page
        assert "bad.tar (cut short" in page
    with pytest.raises(UserError, match=sentence):
        audit([*data, f"out={tmp_path}/three"])


def test_names_that_are_not_utf8_are_written_in_one_way(tmp_path: Path) -> None:
    path = tmp_path / "s.tar"
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT, encoding="utf-8", errors="surrogateescape") as tar:
        for name in ("caf\udce9", "caf\udcea", "caf\udce9" * 40):
            member(tar, f"{name}.jpg", picture())
            member(tar, f"{name}.txt", b"a woman")
    wanted = ["caf\\xe9", "caf\\xea", "caf\\xe9" * 40]
    packed = tmp_path / "p.tar"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    assert keys(path) == keys(packed) == wanted
    summary = labelled([path], tmp_path / "out")
    assert read_attributes(summary.files[0]).keys == wanted


def tar_of(path: Path, members: list[tuple[str, bytes | tarfile.TarInfo]], **options: Any) -> Path:
    with tarfile.open(path, "w", **options) as tar:
        for name, data in members:
            if isinstance(data, bytes):
                member(tar, name, data)
            else:
                tar.addfile(data)
    return path


GOOD: list[tuple[str, bytes]] = [(f"g{i}.{e}", d) for i in range(3) for e, d in (("jpg", picture()), ("txt", b"a man"))]


def link(name: str, kind: bytes) -> tuple[str, tarfile.TarInfo]:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, "g0.jpg"
    return name, info


ODD: dict[str, tuple[list[tuple[str, Any]], int, dict[str, int]]] = {
    "one name in two cases": ([("a.jpg", picture()), ("a.JPG", picture()), ("a.txt", b"a man")], 4, {}),
    "appended beside it": ([("a.jpg", picture()), ("a.txt", b"a man"), ("a.txt", b"a woman")], 4, {}),
    "appended later": ([("g0.txt", b"a woman")], 3, {"key repeated in its shard": 1}),
    "dots": (
        [(f"p.{i}.{e}", d) for i in range(2) for e, d in (("png", picture()), ("txt", b"x"))],
        3,
        {"a dot in the key": 2},
    ),
    "apart": (
        [(f"a{i}.jpg", picture()) for i in range(4)] + [(f"a{i}.txt", b"a man") for i in range(4)],
        3,
        {"members of a sample that do not stand together": 4},
    ),
    "hard link": ([link("a.jpg", tarfile.LNKTYPE), ("a.txt", b"a man")], 3, {"no picture, but a hard link": 1}),
    "links alone": ([link("a.jpg", tarfile.SYMTYPE)], 3, {"no picture, but a symbolic link": 1}),
    "linked caption": ([("a.jpg", picture()), link("a.txt", tarfile.LNKTYPE)], 3, {"no caption, but a hard link": 1}),
    "unknown extension": ([("a.heic", b"x"), ("a.txt", b"a man")], 3, {"no picture": 1}),
    "own names": ([("a.__key__", b"x"), ("a.jpg", picture()), ("a.txt", b"a man")], 4, {}),
    "hidden files": ([("./._a.jpg", b"x"), ("./a.jpg", picture()), ("./._a.txt", b"x"), ("./a.txt", b"a man")], 4, {}),
}


@pytest.mark.parametrize("kind", ODD)
def test_odd_members_are_counted_by_cause_with_an_example(tmp_path: Path, kind: str) -> None:
    members, good, bad = ODD[kind]
    summary = labelled([tar_of(tmp_path / "s.tar", [*GOOD, *members])], tmp_path / "out")
    assert (summary.samples, dict(summary.bad)) == (good, bad)
    for cause in bad:
        assert f"{tmp_path.name}/s.tar" in summary.examples[cause]
        assert cause in summary.lines()[0]


def test_shards_that_ray_would_read_otherwise_are_given_to_the_local_reader(tmp_path: Path) -> None:
    whole = tar_of(tmp_path / "s.tar", [*GOOD])
    assert count_samples(str(whole)) == 3
    for kind in ("hidden files", "hard link", "own names", "one name in two cases"):
        assert count_samples(str(tar_of(tmp_path / "odd.tar", [*GOOD, *ODD[kind][0]]))) is None, kind
    joined = tmp_path / "joined.tar"
    joined.write_bytes(whole.read_bytes() * 2)
    assert count_samples(str(joined)) is None
    joined.write_bytes(gzip.compress(whole.read_bytes()))
    assert count_samples(str(joined)) is None


def test_the_later_of_two_members_counts(tmp_path: Path) -> None:
    path = tar_of(tmp_path / "s.tar", [("a.jpg", b"1"), ("a.txt", b"a man"), ("a.txt", b"a woman"), ("a.JPG", b"2")])
    (raw,) = read_shard(str(path))
    assert (raw["txt"], raw["jpg"]) == (b"a woman", b"2")


def test_refusals_say_what_was_found_instead(tmp_path: Path) -> None:
    heic = tar_of(tmp_path / "s.tar", [(f"k{i}.{e}", b"x") for i in range(9) for e in ("heic", "txt")])
    with pytest.raises(UserError, match=r"no picture 9 \(such as 'k0' with \.heic, \.txt in .*/s\.tar\)"):
        labelled([heic], tmp_path / "out")
    dots = tar_of(tmp_path / "d.tar", [(f"p.{i}.{e}", picture()) for i in range(9) for e in ("png", "txt")])
    with pytest.raises(UserError, match=r"a dot in the key 9 .*'p' with \.0\.png.*photo_1\.png for photo\.1\.png"):
        labelled([dots], tmp_path / "out")
    bare = tar_of(tmp_path / "b.tar", [(f"{i:06d}", picture()) for i in range(3)])
    with pytest.raises(UserError, match=r"no member is named by a key and an extension; the first is '000000'"):
        labelled([bare], tmp_path / "out")


def sparse(path: Path) -> Path:
    """As GNU tar writes a file with more holes than its header has room for."""
    info = tarfile.TarInfo("a.jpg")
    info.type, info.size = b"S", 512
    header = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    header[482] = 1
    resign(header)
    more = b"\0" * 512
    rest = tar_of(path.with_name("rest.tar"), [("a.txt", b"a man"), *GOOD]).read_bytes()
    path.write_bytes(bytes(header) + more + b"x" * 512 + rest)
    return path


def test_sparse_members_are_named(tmp_path: Path) -> None:
    summary = labelled([sparse(tmp_path / "s.tar")], tmp_path / "out")
    assert (summary.samples, dict(summary.bad)) == (3, {"no picture, but a sparse file": 1})
    pax = tmp_path / "pax.tar"
    with tarfile.open(pax, "w", format=tarfile.PAX_FORMAT) as tar:
        info = tarfile.TarInfo("GNUSparseFile.0/a.jpg")
        info.size = 600
        info.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": "a.jpg"}
        tar.addfile(info, io.BytesIO(b"1\n0\n88\n".ljust(600, b"\0")))
        member(tar, "a.txt", b"a man")
        for name, data in GOOD:
            member(tar, name, data)
    assert dict(labelled([pax], tmp_path / "pax").bad) == {"no picture, but a sparse file": 1}


@pytest.mark.parametrize(
    ("kind", "size", "cause"),
    [
        (b"x", 1 << 40, "a header of"),
        (b"L", 1 << 30, "a header of"),
        (b"0", 1 << 50, CUT),
        (b"0", -5, "a negative size"),
        (b"g", 1 << 35, "a header of"),
        (b"5", 1 << 40, None),
    ],
)
def test_absurd_sizes_are_damage_and_take_no_memory(tmp_path: Path, kind: bytes, size: int, cause: str | None) -> None:
    info = tarfile.TarInfo("a.jpg")
    info.type = kind
    header = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    header[124:136] = size.to_bytes(12, "big", signed=True)
    header[124] |= 0x80
    resign(header)
    path = tmp_path / "s.tar"
    path.write_bytes(bytes(header) + tar_of(tmp_path / "rest.tar", GOOD).read_bytes())
    for url in (str(path), path.as_uri()):
        found: list[Damage] = []
        list(read_shard(url, found.append))
        assert [damage.cause.startswith(str(cause)) for damage in found] == ([] if cause is None else [True])


@pytest.mark.parametrize(
    "record", [b"99999999999 path=x\n", b"0 path=x\n", b"-3 path=x\n", b"14 size=-100\n", b"11 size=9_\n"]
)
def test_damaged_pax_headers(tmp_path: Path, record: bytes) -> None:
    info = tarfile.TarInfo("pax")
    info.type, info.size = b"x", len(record)
    path = tmp_path / "s.tar"
    rest = tar_of(tmp_path / "rest.tar", GOOD).read_bytes()
    path.write_bytes(info.tobuf(tarfile.USTAR_FORMAT) + record.ljust(512, b"\0") + rest)
    found: list[Damage] = []
    assert keys_before(path, found) == []
    assert "pax header" in found[0].cause


def test_whole_shards_have_no_notes_in_their_files(tmp_path: Path) -> None:
    summary = labelled([shard(tmp_path / "s.tar")], tmp_path / "out")
    meta = read_meta(summary.files[0])
    assert "damage" not in meta
    assert "examples" not in meta
