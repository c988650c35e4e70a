"""Locks on files that the kernel releases however their holder ends, kill -9 and power cuts included."""

import errno
import fcntl
import os
from pathlib import Path

UNSUPPORTED = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL, errno.EBADF)
"""What a file system without locks answers: NFS without lockd, Lustre without `-o flock`; NFS for any folder."""
_held: set[int] = set()


def hold(path: Path, create: bool = True) -> int | None:
    """Lock a file or folder for this process, without waiting.

    Args:
        path: a file, made if it is not there; or a folder that is.
        create: False: it must be there.

    Returns:
        What `drop` takes; None where the file system knows no locks.

    Raises:
        BlockingIOError: another process, or another part of this one, holds it.
        OSError: it can't be opened.
    """
    while True:
        flags = os.O_RDONLY if path.is_dir() else os.O_RDWR | (os.O_CREAT if create else 0)
        opened = os.open(path, flags | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(opened)
            raise
        except OSError as error:
            os.close(opened)
            if error.errno in UNSUPPORTED:
                return None
            raise
        if _is_still(opened, path):
            _held.add(opened)
            return opened
        os.close(opened)  # its last holder has just removed it: the name may be another file by now


def drop(held: int | None) -> None:
    """Release what `hold` gave."""
    if held is not None and held in _held:
        _held.discard(held)
        fcntl.flock(held, fcntl.LOCK_UN)  # at once, also where a fork has not let go of its share yet
        os.close(held)


def _is_still(opened: int, path: Path) -> bool:
    try:
        now, then = os.stat(path), os.fstat(opened)
    except FileNotFoundError:
        return False
    return (now.st_dev, now.st_ino) == (then.st_dev, then.st_ino)


def _leave_to_parent() -> None:
    """A fork shares its parent's locks, and would hold them when the parent is gone."""
    for opened in _held:
        os.close(opened)  # and not unlocked, which the parent would feel
    _held.clear()


os.register_at_fork(after_in_child=_leave_to_parent)
