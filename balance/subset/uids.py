"""A choice as DataComp takes it: a sorted `.npy` of 128-bit ids, each as often as its sample is used."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from balance.errors import UserError
from balance.files import whole_file
from balance.stream.damage import without_suffix
from balance.stream.opening import is_local
from balance.stream.samples import BadSample, parse_json, read_shard
from balance.subset.choice import Choice

UID = np.dtype("u8,u8")
"""The upper and the lower 64 bits of an id."""
_HEX = re.compile("[0-9a-f]{1,32}", re.IGNORECASE)
_WORD = 2**64


def used_uids(choice: Choice, pair: tuple[Path, str | None]) -> NDArray[np.void]:
    """Ids of a shard's samples, each as often as it is used.

    They are its keys, if these are 32 hex digits; or else those of the column `uid` of the parquet file that
    img2dataset leaves beside the shard; or else of the field `uid` in the samples' JSON.

    Args:
        choice: what is used.
        pair: the attribute file, and the shard's address if it may be read.

    Raises:
        UserError: a sample has no id.
    """
    file, url = pair
    chosen = choice.read(file)
    total = chosen.total
    used = {key: n for key, n in zip(chosen.keys, total.tolist(), strict=True) if n}
    if all(len(key) == 32 and _HEX.fullmatch(key) for key in used):
        found: dict[str, str] = {key: key for key in used}
    elif url is None:
        key = next(key for key in used if not (len(key) == 32 and _HEX.fullmatch(key)))
        raise UserError(f"The key {key!r} of {chosen.shard} is no id of 32 hex digits; name the shards by data.train.")
    else:
        found = _beside(url) or _inside(url, used)
    ids = []
    for key in used:
        uid = found.get(key)
        if uid is None or _HEX.fullmatch(uid) is None:
            what = "has no uid" if uid is None else f"has the uid {uid[:40]!r}, which is no hex number of 128 bits"
            raise UserError(
                f"The sample {key!r} of {url} {what}, in its JSON or in a parquet file beside the shard; "
                "format=keys needs none."
            )
        ids.append(divmod(int(uid, 16), _WORD))
    return np.repeat(np.array(ids, UID), np.fromiter(used.values(), np.int64, len(used)))


def _beside(url: str) -> dict[str, str]:
    """Ids by key, from the table beside a shard; empty if there is none with both."""
    path = f"{without_suffix(url)}.parquet"
    if not (is_local(url) and os.path.isfile(path)) or not {"key", "uid"} <= set(pq.read_schema(path).names):
        return {}
    table = pq.read_table(path, columns=["key", "uid"])
    return {str(k): str(uid) for k, uid in zip(*(table[name].to_pylist() for name in ("key", "uid")), strict=True)}


def _inside(url: str, wanted: dict[str, int]) -> dict[str, str]:
    """Ids by key, from the JSON of a shard's samples."""
    found: dict[str, str] = {}
    for raw in read_shard(url, on_bad=lambda damage: None):
        key = raw["__key__"]
        if key in wanted and key not in found and "json" in raw:
            try:
                uid = parse_json(raw["json"]).get("uid")
            except BadSample:
                continue
            if uid is not None:
                found[key] = str(uid)
    return found


def write_uids(parts: Iterable[NDArray[np.void]], out: Path) -> int:
    """Sort the ids and write them; how many there are."""
    ids = _sorted(list(parts))
    with whole_file(out) as part, open(part, "wb") as file:
        np.save(file, ids)
    return len(ids)


def _sorted(parts: Sequence[NDArray[np.void]]) -> NDArray[np.void]:
    ids = np.concatenate([np.zeros(0, UID), *parts])
    # By columns of numbers: numpy compares records of two fields a hundred times slower.
    return ids[np.lexsort((ids["f1"], ids["f0"]))]
