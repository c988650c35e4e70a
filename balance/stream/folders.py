"""Which files of a folder, or of a glob, are shards: by the ends of their names, behind symbolic links too."""

import glob
import logging
import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from balance.errors import UserError
from balance.stream.damage import TAR_SUFFIXES

log = logging.getLogger(__name__)

_ARCHIVE = re.compile(r"\.tar\b|\.(zip|7z|rar|lz4|gz|bz2|xz|zst|part|partial|incomplete|crdownload|aria2)$", re.I)
"""Names that may be shards which are not read."""
_SHOWN = 5


def shards_below(folder: str, what: str) -> list[str]:
    """The shards in a folder and below it, sorted; one that is reached in two ways counts once.

    Raises:
        UserError: there are none, or a folder can't be read.
    """
    files = _files_below(folder, what)
    found = [name for name in files if is_shard(name)]
    _tell_passed_over(what, folder, [name for name in files if not is_shard(name)])
    if not found:
        kinds = Counter(Path(name).suffix or Path(name).name for name in files)
        holds = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common(5)) or "no file"
        raise UserError(
            f"{what}={folder!r} is a folder without any .tar file in it (nor .tar.gz, .tgz, .tar.zst, ...); it holds "
            f"{holds}."
        )
    return found


def shards_matching(pattern: str, what: str) -> list[str]:
    """The shards that a glob matches, sorted; folders that it matches are read as if they were named.

    Where some of the files are called as shards are, the others are passed over: `shards/*` also matches the
    statistics that img2dataset writes beside each shard.
    """
    matches = sorted(glob.glob(pattern, recursive=True))
    files = [name for name in matches if not os.path.isdir(name)]
    below = [file for name in matches if os.path.isdir(name) for file in _files_below(name, what) if is_shard(file)]
    if below or any(map(is_shard, files)):
        _tell_passed_over(what, pattern, [name for name in files if not is_shard(name)])
        files = [*filter(is_shard, files), *below]
    return _once(files)


def is_shard(name: str) -> bool:
    """Whether a file's name ends as a shard's does."""
    base = os.path.basename(name)
    return base.lower().endswith(TAR_SUFFIXES) and not base.startswith("._")  # macOS's notes on other files


def _files_below(folder: str, what: str) -> list[str]:
    def refuse(error: OSError) -> None:
        raise UserError(f"{what}: the folder {error.filename} can't be read: {error.strerror}.") from error

    found, seen = [], set()
    for parent, folders, files in os.walk(folder, onerror=refuse, followlinks=True):
        real = os.path.realpath(parent)
        if real in seen:  # links may lead round in a circle
            folders.clear()
            continue
        seen.add(real)
        folders.sort(key=lambda name: (os.path.islink(os.path.join(parent, name)), name))
        found += [str(Path(parent, name)) for name in files]
    return _once(found)


def _once(files: Iterable[str]) -> list[str]:
    """Files sorted by name; of several names of the same file its own, or else the first."""
    by_place: dict[str, str] = {}
    for name in sorted(files):
        place = os.path.realpath(name)
        if place == os.path.abspath(name):
            by_place[place] = name
        else:
            by_place.setdefault(place, name)
    return sorted(by_place.values())


def _tell_passed_over(what: str, where: str, names: Sequence[str]) -> None:
    names = _once(name for name in names if _ARCHIVE.search(name) and not os.path.basename(name).startswith("._"))
    if names:
        shown = ", ".join(os.path.basename(name) for name in names[:_SHOWN])
        more = f" and {len(names) - _SHOWN:,} more" if len(names) > _SHOWN else ""
        log.warning("%s=%s: passed over %s%s, whose names are not those of tar shards.", what, where, shown, more)
