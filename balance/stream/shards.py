"""Which shards there are: a folder, a glob, a list or a brace pattern becomes a sorted list of addresses."""

import glob
import os
from collections.abc import Iterable
from pathlib import Path

from webdataset.shardlists import expand_urls

from balance.errors import UserError


def is_local(url: str) -> bool:
    """Whether an address is a path on this machine."""
    return "://" not in url and not url.startswith("pipe:")


def expand_shards(spec: str | Iterable[str], what: str = "data.train", allow_pipe: bool = False) -> list[str]:
    """Turn what the user typed into the list of shards, in a stable order.

    Args:
        spec: a folder (all `*.tar` in it and below), a glob, a brace pattern (`train-{00000..00005}.tar`), a path or
            address, or a list of any of these.
        what: the name of the setting, for messages.
        allow_pipe: let `pipe:` addresses through, which run a shell command for each shard.

    Raises:
        UserError: nothing is named, a pattern matches nothing, a shard is named twice, or `pipe:` is used unasked.
    """
    specs = [spec] if isinstance(spec, str) else [str(entry) for entry in spec]
    shards = [shard for entry in specs if entry.strip() for shard in _expand_one(entry.strip(), what, allow_pipe)]
    if not shards:
        example = "shards/train-{00000..00005}.tar"
        raise UserError(f"{what} names no shards; give a folder, a glob, a list, or a pattern such as '{example}'.")
    if len(set(shards)) < len(shards):
        twice = next(shard for shard in shards if shards.count(shard) > 1)
        raise UserError(f"{what} names the shard {twice} more than once; name each shard once.")
    return shards


def _expand_one(entry: str, what: str, allow_pipe: bool) -> list[str]:
    if entry.startswith("pipe:") and not allow_pipe:
        raise UserError(
            f"{what}={entry!r} would run a shell command for each shard; set data.allow_pipe=true if you trust it."
        )
    if not is_local(entry):
        return list(expand_urls(entry))
    if os.path.isdir(entry):
        found = sorted(str(path) for path in Path(entry).rglob("*.tar"))
        if not found:
            raise UserError(f"{what}={entry!r} is a folder without any .tar file in it.")
        return found
    shards = []
    for pattern in expand_urls(entry):
        # A name with brackets in it is a file first and a glob second.
        found = [pattern] if os.path.exists(pattern) else sorted(glob.glob(pattern, recursive=True))
        if not found:
            hint = "" if pattern == entry else f" (of the pattern {entry!r})"
            where = Path(pattern).parent
            count = len(list(where.glob("*.tar"))) if where.is_dir() else 0
            seen = f"the folder {where} holds {count} .tar files" if where.is_dir() else f"there is no folder {where}"
            raise UserError(f"{what}: nothing matches {pattern!r}{hint}; {seen}.")
        shards += found
    return shards
