"""Faults of the machine end in one sentence with the path; names of others are text to a terminal."""

import errno
import os
import re
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import save_file
from torch.utils.data import DataLoader, Dataset

from balance.common.documents import read_mapping, read_rows
from balance.common.faults import explain, faults_at
from balance.common.locks import drop, hold
from balance.common.terminal import Table, terminal, visible
from balance.errors import UserError
from balance.files import remove_abandoned, whole_file, whole_folder, write_whole
from conf.app.command import run_command
from tests.conftest import ROOT


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A disk of 1 MiB."""
    folder = tmp_path_factory.mktemp("full")
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", folder], capture_output=True)
    if mounted.returncode:
        pytest.skip("only root can mount a small disk")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


LARGE = np.random.default_rng(0).integers(0, 256, 4 << 20, dtype=np.uint8)


def to_open_file(save: Callable[[Any], object]) -> Callable[[Path], None]:
    def write(part: Path) -> None:
        with part.open("wb") as file:
            save(file)

    return write


WRITERS: dict[str, Callable[[Path], object]] = {
    "bytes": lambda part: part.write_bytes(LARGE.tobytes()),
    "numpy": to_open_file(lambda file: np.save(file, LARGE)),
    "torch": lambda part: torch.save({"x": torch.from_numpy(LARGE)}, part),
    "torch, to an open file": to_open_file(lambda file: torch.save({"x": torch.from_numpy(LARGE)}, file)),
    "parquet": lambda part: pq.write_table(pa.table({"x": LARGE}), part),
    "safetensors": lambda part: save_file({"x": torch.from_numpy(LARGE)}, part),
}


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")
@pytest.mark.parametrize("writer", WRITERS)
def test_a_full_disk_is_told_with_the_path_and_leaves_the_old_file(full: Path, writer: str) -> None:
    path = full / "x" / "file"
    write_whole(path, "old")
    with pytest.raises(Exception) as caught, whole_file(path) as part:
        WRITERS[writer](part)
    told = explain(caught.value)
    assert told is not None
    assert told[0].startswith(f"{path}: no space is left on its disk (")
    assert told[1] == 1
    assert path.read_text() == "old"
    assert list(path.parent.iterdir()) == [path]


def test_a_full_disk_leaves_the_old_folder(full: Path) -> None:
    out = full / "folder"
    with whole_folder(out) as part:
        (part / "a").write_text("old")
    with pytest.raises(OSError, match="No space left") as caught, whole_folder(out) as part:
        (part / "b").write_bytes(LARGE.tobytes())
    assert caught.value.filename == str(out)
    assert [path.name for path in out.iterdir()] == ["a"]
    assert [path for path in full.iterdir() if path.name.startswith(".")] == []


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS, errno.EDQUOT, errno.EMFILE, errno.EIO, errno.ENOTDIR])
def test_what_the_system_refuses_is_one_sentence(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(*arguments: object, **options: object) -> int:
        raise OSError(number, os.strerror(number))

    def work(arguments: list[str]) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", refused)
            write_whole(tmp_path / "x", "new")

    monkeypatch.setattr(sys, "argv", ["command.py"])
    with pytest.raises(SystemExit) as end:
        run_command(work)
    told = capsys.readouterr().err
    assert end.value.code == 1
    assert told.startswith(f"error: {tmp_path / 'x'}: ")
    assert told.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_limit_on_the_size_of_files_is_told(tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        with pytest.raises(OSError, match="File too large") as caught:
            write_whole(tmp_path / "x", "x" * 9999)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    told = explain(caught.value)
    assert told is not None
    assert told[0].startswith(f"{tmp_path / 'x'}: the file would be larger than is allowed")
    assert list(tmp_path.iterdir()) == []


class _Failing(Dataset[int]):
    def __init__(self, error: BaseException) -> None:
        self.error = error

    def __len__(self) -> int:
        return 1

    def __getitem__(self, at: int) -> int:
        raise self.error


@pytest.mark.parametrize(
    ("error", "sentence", "status"),
    [
        (UserError("The shard x is\ndamaged."), "The shard x is\ndamaged.", 2),
        (OSError(errno.ENOSPC, "No space left on device", "/nowhere/x"), "/nowhere/x: no space is left", 1),
        (MemoryError("8 GiB"), "The memory is used up", 1),
    ],
)
def test_what_a_loader_worker_meets_is_told_without_its_traceback(
    error: BaseException, sentence: str, status: int
) -> None:
    with pytest.raises(type(error)) as caught:
        list(DataLoader(_Failing(error), num_workers=1))
    told = explain(caught.value)
    assert told is not None
    assert told[0].startswith(sentence)
    assert "Traceback" not in told[0]
    assert told[1] == status


@pytest.mark.parametrize(
    ("said", "sentence"),
    [
        ("DataLoader worker (pid 9) is killed by signal: Bus error. It is possible that ...", "/dev/shm is too small"),
        ("unable to write to file </torch_7_1_0>: No space left on device (28)", "/dev/shm is too small"),
        ("DataLoader worker (pid 9) is killed by signal: Killed.", "A loader worker was ended from outside"),
        (
            "[enforce fail at alloc_cpu.cpp:1] DefaultCPUAllocator: can't allocate memory: 12 bytes",
            "The memory is used",
        ),
        ("[../gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:1", "Another process of this run"),
    ],
)
def test_torch_s_words_are_explained(said: str, sentence: str) -> None:
    told = explain(RuntimeError(said))
    assert told is not None
    assert told[0].startswith(sentence)
    assert told[1] == 1


def test_a_mistake_of_the_program_keeps_its_traceback() -> None:
    assert explain(KeyError("x")) is None
    assert explain(RuntimeError("shapes do not match")) is None
    mistake = KeyError("y")
    mistake.__context__ = FileNotFoundError(errno.ENOENT, "while this was handled", "x")
    assert explain(mistake) is None


def test_a_fault_elsewhere_keeps_its_own_path() -> None:
    with pytest.raises(FileNotFoundError) as caught, faults_at(Path("/to")):
        Path("/nowhere/from").read_bytes()
    assert caught.value.filename == "/nowhere/from"


# ---------------------------------------------------------------------------- what killed writers leave


@contextmanager
def forked(work: Callable[[], object]) -> Iterator[int]:
    """A fork that does some work; killed at the end."""
    child = os.fork()
    if child == 0:
        work()
        os._exit(0)
    try:
        yield child
    finally:
        with suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)


def killed_while_writing(path: Path) -> None:
    with (whole_folder if path.suffix == "" else whole_file)(path) as part:
        (part / "a" if part.is_dir() else part).write_text("half")
        os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("name", ["file.txt", "folder"])
def test_what_a_killed_writer_left_is_removed_by_the_next(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    with forked(lambda: killed_while_writing(path)) as child:
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    (left,) = tmp_path.iterdir()
    assert left.name.startswith(f".{name}.cb-")
    with forked(lambda: write_whole(tmp_path / "other", "whole")) as child:  # another process looks through anew
        os.waitpid(child, 0)
    assert [path.name for path in tmp_path.iterdir()] == ["other"]


def test_a_living_writer_and_files_of_others_are_left_alone(tmp_path: Path) -> None:
    download = tmp_path / "film.mkv.part"
    download.write_text("of a browser")
    with whole_file(tmp_path / "x") as part, whole_folder(tmp_path / "y") as folder:
        part.write_text("half")
        remove_abandoned(tmp_path)
        assert part.exists()
        assert folder.is_dir()
    assert download.exists()
    assert (tmp_path / "x").read_text() == "half"


def test_what_was_moved_aside_comes_back(tmp_path: Path) -> None:
    (tmp_path / ".model.cb-00c0ffee.old").mkdir()
    remove_abandoned(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_many_may_write_one_file_at_once(tmp_path: Path) -> None:
    path, texts = tmp_path / "x", [str(number) * 200_000 for number in range(8)]
    threads = [threading.Thread(target=write_whole, args=(path, text)) for text in texts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert path.read_text() in texts
    assert list(tmp_path.iterdir()) == [path]


def test_a_lock_is_one_holder_s_and_not_inherited(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    held = hold(path)
    with pytest.raises(BlockingIOError):
        hold(path)
    read, write = os.pipe()
    with forked(lambda: (os.write(write, b"x"), signal.pause())):
        os.read(read, 1)
        assert held is not None
        os.close(held)  # as the kernel does when the holder is killed
        drop(hold(path))  # although the fork lives


# ---------------------------------------------------------------------------- damaged documents


def test_rows_are_read_up_to_what_is_torn(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    whole = '{"name": "a", "text": "ä"}\n'.encode()
    for torn in (b'{"name": "\xc3', b'{"na', b"12", b"[" * 100_000):
        path.write_bytes(whole + torn)
        assert read_rows(path) == [{"name": "a", "text": "ä"}]
    assert read_rows(tmp_path / "none") == []


@pytest.mark.parametrize(
    "content", [b"", b"\xff\xfe\x00", b"a: [", b"- 1", b"text", b"a: !!python/object:x.y {}", b"7"]
)
def test_a_damaged_document_is_told_by_its_path(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "config.yaml"
    path.write_bytes(content)
    with pytest.raises(UserError, match=re.escape(str(path)) + ".*restore it") as caught:
        read_mapping(path, "a run's configuration", "restore it")
    assert "\n" not in str(caught.value)


# ---------------------------------------------------------------------------- text of others in a terminal


FOREIGN = ("[/red]nurse", "[bold]chef", ":smile:", "\x1b[31mred", "a\rb", "x\u202egnp", "\udcff", "[link=x]y[/link]")


@pytest.mark.parametrize("name", FOREIGN)
def test_foreign_text_is_shown_as_it_is(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    table = Table(name, title=name)
    table.add_column(name)
    table.add_row(name, name)
    console = terminal(width=200, no_color=True)
    console.print(table)
    console.print(name)
    assert capsys.readouterr().out.count(visible(name)) == 6
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e\ud800-\udfff]", visible(name))


def test_nothing_else_prints_by_rich() -> None:
    for path in [
        *ROOT.glob("*.py"),
        *(p for f in ("balance", "models", "eval", "conf", "scripts") for p in (ROOT / f).rglob("*.py")),
    ]:
        if path != ROOT / "balance/common/terminal.py":
            assert not re.search(r"\bConsole\(|import Table\n|rich\.table", path.read_text(encoding="utf-8")), path
