"""Files and folders that are complete or absent: written beside their place, and moved there once they are whole.

What is not whole yet lies under a name of its own, `.<name>.cb-<8 hex digits>.part`, and its writer holds a lock on it
that the kernel releases however the writer ends. Whoever writes into the same folder next removes what nobody holds.
"""

import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from balance.common.faults import faults_at
from balance.common.locks import drop, hold

_PART = re.compile(r"\.(?P<name>.+)\.cb-[0-9a-f]{8}\.(?P<kind>part|old)")
_DAY = 86400.0  # after which a part is abandoned where no lock can tell
_LONGEST = 235  # bytes of a name that a part repeats; names have 255 at most
_looked_through: set[Path] = set()


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Where to write what is to stand at a path: it goes there when the block ends, and nowhere if the block fails.

    Several processes may write the same path at once: the last to end wins, whole.

    Args:
        path: the file; its folder is made if it is not there.

    Raises:
        OSError: it can't be written; the error names the path.
    """
    part = _part_of(path)
    with faults_at(path, part):
        path.parent.mkdir(parents=True, exist_ok=True)
        _look_through_once(path.parent)
        held = hold(part)
        try:
            os.utime(part, (0, 0))
            yield part
            if part.stat().st_mtime == 0:
                raise FileNotFoundError(f"Nothing was written for {path}.")
            os.replace(part, path)
        finally:
            with suppress(OSError):
                os.truncate(part, 0)  # a library that fails may keep it open, and with it the space on the disk
                part.unlink()
            drop(held)


def write_whole(path: Path, content: str | bytes) -> Path:
    """Write a file, whole or not at all; the path."""
    with whole_file(path) as part:
        part.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


@contextmanager
def whole_folder(out: Path) -> Iterator[Path]:
    """Where to fill a folder that is to stand at a path: it goes there when the block ends, in place of what was there.

    Raises:
        OSError: it can't be written; the error names the path.
    """
    part = _part_of(out)
    with faults_at(out, part):
        out.parent.mkdir(parents=True, exist_ok=True)
        remove_abandoned(out.parent)
        part.mkdir()
        held = [hold(part)]
        try:
            yield part
            old = part.with_suffix(".old")
            if out.exists():
                held.append(hold(out))
                os.replace(out, old)
            os.replace(part, out)
            shutil.rmtree(old, ignore_errors=True)
        finally:
            shutil.rmtree(part, ignore_errors=True)
            for one in held:
                drop(one)


def discard(path: Path) -> None:
    """Remove a file or folder: its name is free at once, and what a kill leaves of it goes with other parts.

    Raises:
        OSError: it can't be renamed.
    """
    part = _part_of(path)
    os.replace(path, part)
    if part.is_dir() and not part.is_symlink():
        shutil.rmtree(part, ignore_errors=True)
    else:
        part.unlink(missing_ok=True)


def remove_abandoned(folder: Path) -> None:
    """Remove what writers that were killed have left in a folder; what they had moved aside is brought back."""
    if not folder.is_dir():
        return
    for path in list(folder.iterdir()):
        found = _PART.fullmatch(path.name)
        if found is None or not _abandoned(path):
            continue
        with suppress(OSError):
            if found["kind"] == "old" and not (folder / found["name"]).exists():
                path.rename(folder / found["name"])
            elif path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)


def _part_of(path: Path) -> Path:
    name = os.fsdecode(os.fsencode(path.name)[:_LONGEST])
    return path.with_name(f".{name}.cb-{secrets.token_hex(4)}.part")


def _look_through_once(folder: Path) -> None:
    """Remove what was abandoned in a folder, once for each process: folders of caches hold many files."""
    place = folder.absolute()
    if place not in _looked_through:
        _looked_through.add(place)
        remove_abandoned(folder)


def _abandoned(path: Path) -> bool:
    try:
        held = hold(path, create=False)
    except BlockingIOError:
        return False
    except OSError:
        return False  # it has just gone, or is another user's
    if held is None:  # no locks on this file system
        with suppress(OSError):
            return time.time() - path.stat().st_ctime > _DAY
        return False
    drop(held)
    return True
