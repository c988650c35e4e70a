import io
import tarfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from balance.errors import UserError
from balance.stream.samples import read_shard
from balance.stream.tarwalk import SYMBOLIC_LINK, DamagedTar, walk_stream, walk_tar
from tests.shard_tools import write_tar

NAMES = st.text("abcdef/._-é猫 ", min_size=1, max_size=150).map(lambda name: "x" + name.strip("/ ."))
MEMBERS = st.lists(st.tuples(NAMES, st.binary(max_size=1500)), max_size=6)
FORMATS = st.sampled_from([tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])


def resign(data: bytearray, at: int = 0) -> None:
    """Make the checksum of a header right."""
    data[at + 148 : at + 156] = b" " * 8
    data[at + 148 : at + 156] = b"%06o\0 " % sum(data[at : at + 512])


def pack(path: Path, members: list[tuple[str, bytes]], form: int) -> list[tuple[str, bytes]]:
    written = []
    with tarfile.open(path, "w", format=form) as tar:
        folder = tarfile.TarInfo("folder")
        folder.type = tarfile.DIRTYPE
        tar.addfile(folder)
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            try:
                tar.addfile(info, io.BytesIO(data))
            except ValueError:  # a name that ustar can't hold
                continue
            written.append((name, data))
        link = tarfile.TarInfo("link")
        link.type, link.linkname = tarfile.SYMTYPE, "folder"
        tar.addfile(link)
    return written


@settings(max_examples=150, deadline=None)
@given(MEMBERS, FORMATS)
def test_reads_what_tarfile_wrote(tmp_path_factory: pytest.TempPathFactory, members: list, form: int) -> None:
    path = tmp_path_factory.mktemp("tar") / "x.tar"
    written = pack(path, members, form)
    assert list(walk_tar(path)) == [*written, ("link", SYMBOLIC_LINK)]


@settings(max_examples=50, deadline=None)
@given(MEMBERS, FORMATS, st.integers(1, 700))
def test_streams_may_give_few_bytes_at_a_time(
    tmp_path_factory: pytest.TempPathFactory, members: list, form: int, most: int
) -> None:
    path = tmp_path_factory.mktemp("tar") / "x.tar"
    written = pack(path, members, form)
    stream = io.BytesIO(path.read_bytes())
    walked = list(walk_stream(lambda n: stream.read(min(n, most))))
    assert walked == [*written, ("link", SYMBOLIC_LINK)]


def test_a_damaged_length_takes_no_memory(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "x.tar", [{"key": "k", "caption": "a man"}])
    data = bytearray(path.read_bytes())
    data[124:136] = b"\x80" + b"\x7f" * 11  # some 10^26 bytes, in base 256
    resign(data)
    with pytest.raises(DamagedTar):
        list(walk_stream(io.BytesIO(bytes(data)).read))


def test_extended_headers_with_sizes(tmp_path: Path) -> None:
    path = tmp_path / "x.tar"
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT, pax_headers={"comment": "global"}) as tar:
        info = tarfile.TarInfo("a.txt")
        info.size = 3
        info.pax_headers = {"size": "3", "comment": "one\ntwo", "path": "b.txt"}
        tar.addfile(info, io.BytesIO(b"one"))
    assert list(walk_tar(path)) == [("b.txt", b"one")]


def test_every_cut_is_noticed(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "x.tar", [{"key": f"k{i}", "caption": "a man"} for i in range(4)])
    whole, data = list(walk_tar(path)), path.read_bytes()
    end = data.rstrip(b"\0")
    for length in range(0, len(end), 100):
        path.write_bytes(data[:length])
        found = []
        with pytest.raises(DamagedTar):
            found.extend(walk_tar(path))
        assert found == whole[: len(found)]
        with pytest.raises(UserError, match=r"is damaged: (cut short|an empty file|no tar archive)"):
            list(read_shard(path.as_uri()))


def test_damage_in_a_header_is_noticed(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "x.tar", [{"key": f"k{i}", "caption": "a man"} for i in range(3)])
    data = bytearray(path.read_bytes())
    at = data.index(b"k1.jpg")
    data[at : at + 512] = b"\xff" * 512
    path.write_bytes(data)
    assert [raw["__key__"] for raw in read_shard(str(path), on_bad=lambda cause: None)] == []
    with pytest.raises(UserError, match="is damaged: a damaged header"):
        list(read_shard(str(path)))


def test_samples_are_those_of_the_stream_reader(tmp_path: Path) -> None:
    samples = [{"key": f"a/b.c/k{i}", "caption": "x", "meta": {"i": i}, "raw": {"CLS": b"1"}} for i in range(5)]
    path = write_tar(tmp_path / "x.tar", samples)
    walked = list(read_shard(str(path)))
    streamed = list(read_shard(path.as_uri()))
    assert [{**raw, "__url__": ""} for raw in walked] == [{**raw, "__url__": ""} for raw in streamed]
    assert [raw["__key__"] for raw in walked] == [f"a/b.c/k{i}" for i in range(5)]
