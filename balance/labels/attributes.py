"""Attribute files: what is known of each good sample of a shard, one parquet file a shard.

Columns: `key`; `s.<name>` float32, NaN where unknown; `y.0`, `y.1`, ... uint64 words, concept r being bit r % 64 of
word r // 64.
Rows: the good samples in the order of the tar. What the file was made from stands in its key-value metadata under
`counterbalance`.
"""

import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from balance.errors import UserError
from balance.files import whole_file
from balance.labels.annotators import Annotator, build_annotator
from balance.labels.rows import split_part
from balance.stream.damage import Damage, without_suffix
from balance.stream.opening import is_local, scheme_of
from balance.stream.stores import object_identity

__all__ = ["Annotator", "ShardAttributes", "build_annotator", "read_attributes", "write_attributes"]

FORMAT_VERSION = 1
_META_KEY = b"counterbalance"


@dataclass(frozen=True)
class Faults:
    """What is wrong with a shard.

    Attributes:
        bad: bad samples by cause.
        examples: for each cause one such sample, in words.
        damage: where the shard's reading ended early; None if it did not.
    """

    bad: Mapping[str, int] = field(default_factory=dict)
    examples: Mapping[str, str] = field(default_factory=dict)
    damage: Damage | None = None

    def to_dict(self) -> dict[str, Any]:
        """As plain data; what is not there is left out."""
        found: dict[str, Any] = {"bad": dict(sorted(self.bad.items()))}
        if self.examples:
            found["examples"] = dict(sorted(self.examples.items()))
        if self.damage is not None:
            found["damage"] = self.damage.to_dict()
        return found


@dataclass(frozen=True)
class ShardAttributes:
    """The attributes of a shard's good samples.

    Attributes:
        keys: n sample keys, in the order of the tar.
        s: (n, m) float32 in [0,1], NaN where unknown.
        y: (n, c) uint8, 0 or 1.
        s_names: names of the columns of `s`.
        y_names: names of the columns of `y`.
        meta: what the file was made from: shard, its identity, annotator, counts of bad samples by cause, damage.
    """

    keys: list[str]
    s: npt.NDArray[np.float32]
    y: npt.NDArray[np.uint8]
    s_names: list[str]
    y_names: list[str]
    meta: dict[str, Any] = field(default_factory=dict)


def canonical_url(url: str) -> str:
    """The same address for the same shard, however its path was typed."""
    return os.path.abspath(url) if is_local(url) else url  # a part of a table keeps its row groups


def shard_identity(url: str) -> dict[str, Any]:
    """What tells that a shard has changed: its size in bytes, and its time of change or a store's tag of its content.

    Empty for commands, which say nothing of what they will write.

    Raises:
        UserError: a shard that is not there.
    """
    try:
        if not is_local(url):
            return {} if scheme_of(url) == "pipe" else object_identity(url)
        stat = os.stat(split_part(url)[0])
    except OSError as error:
        raise UserError(f"The shard {url} can't be read: {error.strerror or error}.") from error
    return {"size": stat.st_size, "mtime_ns": stat.st_mtime_ns}


def attribute_path(folder: str | os.PathLike[str], url: str) -> Path:
    """Where the attribute file of a shard lies in `folder`: the shard's stem, and 8 hex digits of its address."""
    stem = re.sub(r"[^\w.-]+", "_", without_suffix(Path(url.rstrip("/")).name)) or "shard"
    return Path(folder) / f"{stem}-{hashlib.sha256(canonical_url(url).encode()).hexdigest()[:8]}.parquet"


def pack_concepts(y: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint64]:
    """(n, c) of 0 and 1 to (n, ceil(c / 64)) words."""
    n, c = y.shape
    padded = np.zeros((n, -(-c // 64) * 64), np.uint8)
    padded[:, :c] = y
    return np.packbits(padded, axis=1, bitorder="little").view("<u8").reshape(n, -(-c // 64))


def unpack_concepts(words: npt.NDArray[np.uint64], c: int) -> npt.NDArray[np.uint8]:
    """(n, ceil(c / 64)) words to (n, c) of 0 and 1."""
    as_bytes = (
        np.ascontiguousarray(words.astype("<u8", copy=False)).view(np.uint8).reshape(len(words), words.shape[1] * 8)
    )
    return np.unpackbits(as_bytes, axis=1, bitorder="little", count=c) if c else np.zeros((len(words), 0), np.uint8)


def write_attributes(
    path: str | os.PathLike[str],
    keys: Sequence[str],
    s: npt.NDArray[np.float32],
    y: npt.NDArray[np.uint8],
    annotator: Annotator,
    url: str,
    identity: Mapping[str, Any],
    faults: Faults,
    disagreements: Mapping[str, list[int]] | None = None,
    fingerprint: str | None = None,
) -> None:
    """Write an attribute file, whole or not at all.

    Args:
        path: where to; its folder is made if need be.
        keys: n keys.
        s: (n, m), NaN where unknown.
        y: (n, c), 0 or 1.
        annotator: what made `s` and `y`.
        url: the shard's address.
        identity: `shard_identity(url)` from before the shard was read.
        faults: what is wrong with the shard.
        disagreements: by column, samples that several sources know, and on how many of them these differ.
        fingerprint: of what made the labels; by default the annotator's.
    """
    words = pack_concepts(y)
    columns: dict[str, Any] = {"key": pa.array(list(keys), pa.string())}
    columns |= {f"s.{name}": pa.array(np.ascontiguousarray(s[:, k])) for k, name in enumerate(annotator.s_names)}
    columns |= {f"y.{w}": pa.array(np.ascontiguousarray(words[:, w])) for w in range(words.shape[1])}
    meta = {
        "version": FORMAT_VERSION, "s_names": annotator.s_names, "y_names": annotator.y_names, "proxies":
        annotator.proxies,
        "shard": canonical_url(url), "shard_id": dict(identity), "annotator": fingerprint or
        annotator.fingerprint, "samples":
        len(keys),
        **faults.to_dict(),
        "unknown": {name: int(np.isnan(s[:, k]).sum()) for k, name in enumerate(annotator.s_names)},
    }  # fmt: skip
    if disagreements:
        meta["disagreements"] = dict(disagreements)
    table = pa.table(columns).replace_schema_metadata({_META_KEY: json.dumps(meta, ensure_ascii=False).encode()})
    with whole_file(Path(path)) as part:
        pq.write_table(table, part, compression="zstd")


def read_meta(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The metadata of an attribute file; reads only its footer.

    Raises:
        UserError: no such file, or none of ours.
    """
    try:
        raw = (pq.read_schema(path).metadata or {}).get(_META_KEY)
    except (OSError, pa.ArrowInvalid) as error:
        raise UserError(f"The attribute file {path} can't be read ({error}); delete it and annotate again.") from error
    meta = {} if raw is None else json.loads(raw)
    if meta.get("version") != FORMAT_VERSION:
        raise UserError(f"{path} is no attribute file of version {FORMAT_VERSION}; delete it and annotate again.")
    return meta


def made_by(path: str | os.PathLike[str]) -> str | None:
    """Fingerprint of what made an attribute file; None where the file says nothing of it."""
    try:
        return str(read_meta(path)["annotator"])
    except (UserError, KeyError):
        return None


def read_attributes(path: str | os.PathLike[str]) -> ShardAttributes:
    """Read an attribute file.

    Raises:
        UserError: no such file, or none of ours.
    """
    meta = read_meta(path)
    table = pq.read_table(path)
    s_names, y_names = list(meta["s_names"]), list(meta["y_names"])
    n = table.num_rows
    s = np.empty((n, len(s_names)), np.float32)
    for k, name in enumerate(s_names):
        s[:, k] = table[f"s.{name}"].to_numpy()
    words = np.empty((n, -(-len(y_names) // 64)), np.uint64)
    for w in range(words.shape[1]):
        words[:, w] = table[f"y.{w}"].to_numpy()
    return ShardAttributes(table["key"].to_pylist(), s, unpack_concepts(words, len(y_names)), s_names, y_names, meta)


def is_current(path: str | os.PathLike[str], url: str, fingerprint: str) -> bool:
    """Whether an attribute file is there and was made from this shard, unchanged since, by this annotator."""
    if not Path(path).is_file():
        return False
    try:
        meta = read_meta(path)
    except UserError:
        return False
    return (
        meta["annotator"] == fingerprint
        and meta["shard"] == canonical_url(url)
        and meta["shard_id"] == shard_identity(url)
        and meta["samples"] == pq.read_metadata(path).num_rows
    )


def find_files(shards: Sequence[str], folder: str | os.PathLike[str]) -> list[Path]:
    """The attribute files of shards that were annotated before, whatever by.

    Args:
        shards: addresses of the shards.
        folder: where `scripts/annotate.py` wrote.

    Returns:
        One file a shard, in their order.

    Raises:
        UserError: a shard has no file, has changed since, or was annotated in another way than the first; or a file
            lacks keys.
    """
    files = [attribute_path(folder, url) for url in shards]
    missing = [url for url, path in zip(shards, files, strict=True) if not path.is_file()]
    if missing:
        raise UserError(
            f"{len(missing)} of {len(shards)} shards have no attribute file in {folder}, {missing[0]} the first; "
            "run scripts/annotate.py on them."
        )
    first = read_meta(files[0])["annotator"]
    for url, path in zip(shards, files, strict=True):
        meta = read_meta(path)
        if "truncated or damaged tar" in meta["bad"]:  # as it was noted once
            raise UserError(
                f"{path} was made by an earlier version, which did not count what the damaged shard {url} lost; run "
                "scripts/annotate.py again."
            )
        if meta["shard_id"] != shard_identity(url):
            raise UserError(f"The shard {url} has changed since {path} was made; run scripts/annotate.py again.")
        rows = pq.read_metadata(path).num_rows
        if rows != meta["samples"]:
            raise UserError(
                f"The attribute file {path} lacks {meta['samples'] - rows} of the {meta['samples']} keys of the "
                f"shard {url}; "
                "run scripts/annotate.py again."
            )
        if meta["annotator"] != first:
            raise UserError(f"{path} was made in another way than {files[0]}; run scripts/annotate.py again.")
    return files
