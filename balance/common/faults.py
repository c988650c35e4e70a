"""Faults of the machine, not of the input: a full disk, a forbidden folder, no memory. Each is told in one sentence."""

import errno
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from balance.errors import UserError

BAD_INPUT, BAD_MACHINE = 2, 1
"""Exit statuses: of input that a user can correct, and of a fault of the machine."""

REMEDIES = {
    errno.ENOSPC: "no space is left on its disk{free}; free some, or write to another folder",
    errno.EDQUOT: "the disk quota there is used up; free some space, or write to another folder",
    errno.EROFS: "its file system is read-only; write to another folder",
    errno.EACCES: "permission denied{user}; change the permissions of the file or of its folder, or name another",
    errno.EPERM: "the operation is not permitted{user}; change the permissions, or name another file or folder",
    errno.EFBIG: "the file would be larger than is allowed here; raise the limit (ulimit -f), or write elsewhere",
    errno.EMFILE: "too many files are open at once; raise the limit (ulimit -n 65536), or lower data.workers",
    errno.ENFILE: "too many files are open on this machine; end other programs, or lower data.workers",
    errno.EIO: "the disk reports an input/output error; check it, or use another folder",
    errno.ESTALE: "the network file system no longer has this file (stale handle); mount it again, then start again",
    errno.ENOMEM: "not enough memory; lower data.batch_size or data.workers, or use a machine with more",
    errno.ENAMETOOLONG: "the name is too long; choose a shorter one",
    errno.ELOOP: "its symbolic links lead in a circle; mend them",
    errno.ENOTDIR: "part of this path is a file, not a folder; choose another",
    errno.EISDIR: "this is a folder, not a file; choose another name",
    errno.EEXIST: "there is a file of this name, where a folder is needed; choose another name, or remove it",
    errno.ENOENT: "there is no such file or folder; check the path",
    errno.ETXTBSY: "the file is in use by another program; end it, then start again",
}
OF_MACHINE = (
    *(errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EFBIG, errno.EMFILE, errno.ENFILE),
    *(errno.EIO, errno.ESTALE, errno.ENOMEM),
)
_NUMBER = re.compile(r"\(os error (\d+)\)|\[?\berrno:? (\d+)\b", re.IGNORECASE)
# numpy's words, and torch's, which drops the system's number: a file system that refuses a write is mostly full.
_SHORT = re.compile(
    r"\d+ requested and \d+ written|PytorchStreamWriter failed writing|inline_container.cc:\d+\] . unexpected pos"
)
_FROM_WORKER = re.compile(
    r"Caught \w+ in [\w ]+ process \d+\.\nOriginal Traceback .*\n(?:\w+\.)*\w+(?:: (?P<said>.*))?\Z", re.DOTALL
)
_QUOTED_PATH = re.compile(r"'([^']*/[^']*)'")


def explain(error: BaseException) -> tuple[str, int] | None:
    """A sentence for a user, and the exit status; None for what no one foresaw, whose traceback should be seen.

    Args:
        error: what ended a command.
    """
    said = str(error)
    if found := _FROM_WORKER.search(said):  # torch hands on a loader worker's error with its traceback as the message
        said = (found["said"] or "").strip()
    if isinstance(error, UserError):
        return said, BAD_INPUT
    for sentence in (_memory(error, said), _worker(said), _peer(error, said)):
        if sentence is not None:
            return sentence, BAD_MACHINE
    fault = find_fault(error)
    if fault is not None:
        return _sentence(fault), BAD_MACHINE
    if isinstance(error, OSError):  # of the network, mostly, which gives no number
        return f"{type(error).__name__}: {' '.join(said.split())[:400]}.", BAD_MACHINE
    return None


def find_fault(error: BaseException) -> OSError | None:
    """The system's error that is behind an exception, also where a library tells of it in its own words."""
    if isinstance(error, OSError) and error.errno is not None:
        return error
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, OSError) and seen.errno in OF_MACHINE:
            return seen
        number = _number_in(str(seen))
        if number is not None:
            path = _QUOTED_PATH.search(str(seen))
            return OSError(number, os.strerror(number), path[1] if path else None)
        seen = seen.__cause__ or seen.__context__
    return None


@contextmanager
def faults_at(path: Path, stand_in: Path | None = None) -> Iterator[None]:
    """Name a path in a fault of the machine inside the block that names none.

    Args:
        path: what is written or read.
        stand_in: where it is written meanwhile, of which a user need not know.

    Raises:
        OSError: the fault, with the path.
    """
    try:
        yield
    except Exception as error:
        fault = None if isinstance(error, UserError) else find_fault(error)
        if fault is None or (fault.filename is not None and os.fspath(fault.filename) != str(stand_in)):
            raise
        raise OSError(fault.errno, os.strerror(fault.errno or 0), str(path)) from error


def _number_in(said: str) -> int | None:
    number = _NUMBER.search(said)
    if number is not None and int(number[1] or number[2]) in OF_MACHINE:
        return int(number[1] or number[2])
    if _SHORT.search(said):
        return errno.ENOSPC
    return next((one for one in OF_MACHINE if os.strerror(one) in said), None)


def _sentence(fault: OSError) -> str:
    name = fault.filename if fault.filename is not None else fault.filename2
    path = None if name is None or isinstance(name, int) else os.fsdecode(name)
    remedy = REMEDIES.get(fault.errno or 0, f"{fault.strerror}; check the path and the file system")
    remedy = remedy.format(free=_free(path), user=_user())
    where = f"{path}: " if path else "A file can't be read or written: "
    return f"{where}{remedy}. What was complete before is unharmed."


def _free(path: str | None) -> str:
    """How much is left where a path lies, in words; empty where that can't be told."""
    for folder in [] if path is None else [Path(path), *Path(path).parents]:
        with suppress(OSError):
            return f" ({shutil.disk_usage(folder).free / 2**20:,.0f} MiB free)"
    return ""


def _user() -> str:
    return f" to user {os.geteuid()}" if hasattr(os, "geteuid") else ""


def _memory(error: BaseException, said: str) -> str | None:
    if type(error).__name__ == "OutOfMemoryError" or "CUDA out of memory" in said:
        return (
            "The GPU's memory is used up: lower data.batch_size, raise optim.accumulate, or use precision=bf16 "
            f"({' '.join(said.split())[:200]})."
        )
    if isinstance(error, MemoryError) or "can't allocate memory" in said or "not enough memory" in said.lower():
        return (
            "The memory is used up: lower data.batch_size, data.workers or data.shuffle, or use a machine with more "
            f"({' '.join(said.split())[:200] or type(error).__name__})."
        )
    return None


def _worker(said: str) -> str | None:
    """What torch says when a loader worker dies, or when `/dev/shm` is too small for what they hand over."""
    shared = ("shared memory", "/torch_", "Bus error")
    if any(word in said for word in shared) and ("DataLoader" in said or "/torch_" in said or "shm" in said):
        return (
            f"/dev/shm is too small for what the loader workers hand over{_free('/dev/shm')}: make it larger "
            "(docker run --shm-size=8g), or set data.workers=0, or lower data.batch_size."
        )
    if "DataLoader worker" in said and ("killed by signal" in said or "exited unexpectedly" in said):
        return (
            "A loader worker was ended from outside, mostly since the machine's memory is used up: lower data.workers, "
            f"data.batch_size or data.shuffle ({' '.join(said.split())[:160]})."
        )
    return None


def _peer(error: BaseException, said: str) -> str | None:
    """What torch says when another process of the run has gone."""
    gone = ("Connection closed by peer", "Connection reset by peer", "remote process exited", "Broken pipe")
    of_torch = type(error).__name__.startswith("Dist") or "gloo" in said or "NCCL" in said or "TCPStore" in said
    if of_torch and any(word in said for word in gone):
        return (
            "Another process of this run has ended, so that this one can't go on; its own message says why. Start the "
            "run again with resume=true."
        )
    return None
