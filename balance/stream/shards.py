"""Which shards there are: a folder, a glob, a list or a brace pattern becomes a sorted list of addresses."""

import os
import re
from collections.abc import Iterable
from pathlib import Path

from braceexpand import alphabet, braceexpand

from balance.errors import UserError
from balance.stream.folders import is_shard, shards_below, shards_matching
from balance.stream.opening import RefusedAddress, ShellCommand, check_address, is_local, is_store
from balance.stream.stores import list_objects

MOST_ADDRESSES = 1_000_000
"""Addresses that one pattern may stand for."""
_RANGE = re.compile(r"(-?\d+|[A-Za-z])\.\.(-?\d+|[A-Za-z])(?:\.\.-?(\d+))?")
_DEEPEST = 20  # braces in braces


def expand_shards(spec: str | Iterable[str], what: str = "data.train", allow_pipe: bool = False) -> list[str]:
    """Turn what the user typed into the list of shards, in a stable order.

    Args:
        spec: a folder or a store's prefix (all tars in it and below, packed ones and links included), a glob, a brace
            pattern (`train-{00000..00005}.tar`), a path or address, or a list of any of these.
        what: the name of the setting, for messages.
        allow_pipe: let `pipe:` addresses through, which run a shell command for each shard.

    Raises:
        UserError: nothing is named, a pattern matches nothing, or a shard is named twice.
        RefusedAddress: `pipe:` is used unasked, or an address is of a kind that is not read.
    """
    specs = [spec] if isinstance(spec, str) else spec
    if not isinstance(specs, list | tuple) or not all(isinstance(entry, str) for entry in specs):
        raise UserError(f"{what}={str(spec)[:80]} is no path, pattern or address, nor a list of such.")
    shards = [shard for entry in specs for shard in _expand_one(entry, what, allow_pipe)]
    if not shards:
        example = "shards/train-{00000..00005}.tar"
        raise UserError(f"{what} names no shards; give a folder, a glob, a list, or a pattern such as '{example}'.")
    if len(set(shards)) < len(shards):
        twice = next(shard for shard in shards if shards.count(shard) > 1)
        raise UserError(f"{what} names the shard {twice} more than once; name each shard once.")
    return shards


def shared_shards(some: Iterable[str], others: Iterable[str]) -> list[str]:
    """Those of some shards that are among others, too: by another path, through a link, or at the same address."""
    known = {_file_of(shard) for shard in others}
    return [shard for shard in some if _file_of(shard) in known]


def _file_of(shard: str) -> object:
    """What is the same for all paths to a file; the address where it is on no disk here."""
    try:
        found = os.stat(shard) if is_local(shard) else None
    except OSError:
        found = None
    return shard if found is None else (found.st_dev, found.st_ino)


def expand_braces(pattern: str, what: str) -> list[str]:
    """`train-{000..002}.tar` or `{a,b}.tar` as a list, and parts joined by `::` one after another.

    Args:
        pattern: any text; without braces it stands for itself.
        what: the name of the setting, for messages.

    Raises:
        RefusedAddress: a brace is not closed, or the pattern stands for more than `MOST_ADDRESSES`.
    """
    parts = pattern.split("::")
    try:
        if sum(map(_count, parts)) > MOST_ADDRESSES:
            raise RefusedAddress(f"{what}={pattern[:200]!r} stands for more than {MOST_ADDRESSES:,} addresses.")
        return [address for part in parts for address in braceexpand(part)]
    except ValueError as error:  # unbalanced braces, or a number of thousands of digits
        if isinstance(error, UserError):
            raise
        raise RefusedAddress(f"{what}={pattern[:200]!r} can't be expanded: {str(error)[:100]}.") from error


def _count(pattern: str) -> int:
    """How many texts a brace pattern stands for: they are counted before they are made."""
    # For each open brace: where it begins, texts of the alternatives before the last comma, and of the one since.
    open_braces, at = [(0, 0, 1)], 0
    while at < len(pattern):
        letter = pattern[at]
        start, before, since = open_braces[-1]
        if letter == "\\":
            at += 1
        elif letter == "{":
            open_braces.append((at + 1, 0, 1))
        elif letter == "," and len(open_braces) > 1:
            open_braces[-1] = (start, before + since, 1)
        elif letter == "}" and len(open_braces) > 1:
            open_braces.pop()
            found = _RANGE.fullmatch(pattern[start:at])
            inside = before + since if found is None else _length(*found.groups())
            start, before, since = open_braces[-1]
            open_braces[-1] = (start, before, since * inside)
        if len(open_braces) > _DEEPEST:
            return MOST_ADDRESSES + 1
        at += 1
    return open_braces[0][2]


def _length(first: str, last: str, step: str | None) -> int:
    """How many numbers or letters a range has."""
    ends = [alphabet.index(end) if end.isalpha() else int(end) for end in (first, last)]
    return abs(ends[1] - ends[0]) // (int(step or 1) or 1) + 1


def _expand_one(entry: str, what: str, allow_pipe: bool) -> list[str]:
    if isinstance(entry, ShellCommand):  # expanded and allowed before
        return [entry]
    entry = str(entry).strip()
    if not entry:
        return []
    # A name with braces in it is a file first and a pattern second.
    addresses = [entry] if is_local(entry) and os.path.exists(entry) else expand_braces(entry, what)
    shards: list[str] = []
    for address in addresses:
        checked = check_address(address, what, allow_pipe)
        if "*" in checked and checked.startswith("http"):
            raise RefusedAddress(
                f"{what}={checked!r}: a server does not say which files match *; name the shards by a pattern such as "
                "train-{00000..00099}.tar."
            )
        if is_local(checked):
            shards += _matches(checked, entry, what)
        else:
            shards += _on_store(checked, what) if is_store(checked) else [checked]
    return shards


def _on_store(url: str, what: str) -> list[str]:
    """The shards that a prefix or a glob of a store names, sorted; an address that ends as a shard's does is one."""
    glob = re.search(r"[*?]", url) is not None
    if is_shard(url) and not glob:
        return [url]
    try:
        objects = list_objects(url, glob)
    except OSError as error:
        cause = "there is no such bucket or prefix" if isinstance(error, FileNotFoundError) else str(error)
        raise UserError(f"{what}: {url} can't be listed: {cause}.") from error
    found = [check_address(name, what, allow_pipe=False) for name in objects if is_shard(name)]
    if not found:
        raise UserError(f"{what}: no object of {url} is a shard (.tar, .tar.gz, ...); {len(objects):,} others are.")
    return found


def _matches(pattern: str, entry: str, what: str) -> list[str]:
    """The shards on this machine that a folder, a path or a glob names; `entry` is what it was expanded from."""
    if os.path.isdir(pattern):
        return shards_below(pattern, what)
    # A name with brackets in it is a file first and a glob second.
    found = [pattern] if os.path.exists(pattern) else shards_matching(pattern, what)
    if not found:
        hint = "" if pattern == entry else f" (of the pattern {entry!r})"
        where = Path(pattern).parent
        count = sum(is_shard(path.name) for path in where.iterdir()) if where.is_dir() else 0
        seen = f"the folder {where} holds {count} .tar files" if where.is_dir() else f"there is no folder {where}"
        raise UserError(f"{what}: nothing matches {pattern!r}{hint}; {seen}.")
    return found
