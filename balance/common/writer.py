"""One writer at a time for a folder: a lock beside it that the kernel releases however its holder ends."""

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from balance.common.faults import faults_at
from balance.common.locks import drop, hold
from balance.common.terminal import say
from balance.errors import UserError


def lock_path(folder: Path) -> Path:
    """The lock of a folder, `.<name>.lock` beside it, so that it is there before the folder is."""
    return folder.with_name(f".{folder.name}.lock")


@contextmanager
def only_writer(folder: Path) -> Iterator[None]:
    """Be the only one who writes into a folder, on any machine that shares its file system, until the block ends.

    A file system that knows no locks (Lustre without `-o flock`, NFS without lockd) is told of, and nothing is held.

    Args:
        folder: need not be there; its parent is made.

    Raises:
        UserError: another process writes into it; the message names that.
        OSError: the lock can't be made; the error names its path.
    """
    path = lock_path(folder)
    with faults_at(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            held = hold(path)
        except BlockingIOError as error:
            raise UserError(
                f"{_holder(path)} writes into {folder}; wait until it has ended, or end it, or choose another name."
            ) from error
    if held is None:
        say(f"note: the file system of {folder} knows no locks; make sure that nothing else writes into that folder.")
    else:
        with suppress(OSError):  # the disk may be full; the lock holds all the same
            since = f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S UTC}"
            os.ftruncate(held, 0)
            os.pwrite(held, json.dumps({"host": socket.gethostname(), "pid": os.getpid(), "since": since}).encode(), 0)
    try:
        yield
    finally:
        with suppress(OSError):
            path.unlink(missing_ok=True)
        drop(held)


def _holder(path: Path) -> str:
    """Who holds a lock, in words; network file systems may show what its holder wrote only later."""
    try:
        holder = json.loads(path.read_bytes()[:1000])
        return f"Process {int(holder['pid'])} on {str(holder['host'])[:100]} (since {str(holder['since'])[:30]})"
    except (OSError, ValueError, KeyError, TypeError):
        return "Another process"
