"""Attribute files to cells: one DuckDB group-by, out of core."""

from __future__ import annotations

import glob
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import scipy.sparse as sp
from numpy.typing import NDArray

from balance.common.holdout import sql_of_kept
from balance.errors import UserError
from balance.m4.cells import Cells

METADATA_KEY = b"counterbalance"
CHUNK = 65_536  # rows whose concept bits are unpacked at a time


def attribute_files(files: str | Path | Sequence[str | Path]) -> list[str]:
    """The parquet files that a folder, a glob, a file, or a list of these names, in sorted order."""
    specs = [files] if isinstance(files, (str, Path)) else list(files)
    found: list[str] = []
    for spec in map(str, specs):
        if Path(spec).is_dir():
            found += sorted(map(str, Path(spec).glob("*.parquet")))
        else:
            found += sorted(glob.glob(spec))
    if not found:
        raise UserError(f"no attribute files at {', '.join(map(str, specs))}: make them with scripts/annotate.py")
    return found


def file_names(path: str) -> dict[str, Any]:
    """s_names, y_names and proxies of one attribute file, from its metadata."""
    try:
        metadata = pq.read_schema(path).metadata or {}
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"{path} is not a readable parquet file: make it again with scripts/annotate.py") from error
    if METADATA_KEY not in metadata:
        raise UserError(f"{path} is no attribute file (it lacks the names of its columns): use scripts/annotate.py")
    document = json.loads(metadata[METADATA_KEY])
    return {key: tuple(document.get(key, ())) for key in ("s_names", "y_names", "proxies")}


def count_parquet(
    files: str | Path | Sequence[str | Path],
    *,
    memory_limit: str | None = None,
    threads: int | None = None,
    bins: int | None = None,
    temp_directory: str | None = None,
    holdout: float = 0.0,
) -> Cells:
    """Count the distinct (s, y) patterns of attribute files.

    Args:
        files: folder, glob, file, or a list of these; written as `balance.labels.attributes` does: columns `s.<name>`
            float32 and `y.0`, `y.1`, ... uint64, in which concept r is bit r % 64 of word r // 64.
        memory_limit: what DuckDB may use before it goes to disk, such as "3GB"; its own default otherwise.
        threads: DuckDB's threads; all cores by default.
        bins: round s to multiples of 1/bins.
        temp_directory: where DuckDB spills.
        holdout: share of the samples that is held out by key, and not counted.

    Raises:
        UserError: no files, or files whose columns differ.
    """
    paths = attribute_files(files)
    names = file_names(paths[0])
    for path in paths[1:]:
        if file_names(path) != names:
            raise UserError(f"{path} has other attributes or concepts than {paths[0]}: annotate both alike")
    if bins is not None and bins < 1:
        raise UserError(f"bins is {bins}: give a whole number of at least 1, or leave it out to keep s exact")
    words = [f"y.{w}" for w in range(-(-len(names["y_names"]) // 64))]
    columns = [f"s.{name}" for name in names["s_names"]]
    table, s_error = _group(paths, columns, words, memory_limit, threads, bins, temp_directory, holdout)
    if len(table) == 0:
        beside = f" beside those held out by holdout={holdout:g}: lower it, or" if holdout else ":"
        raise UserError(f"the {len(paths)} attribute files hold no samples{beside} annotate again")
    s = np.column_stack([np.asarray(table[f"k{i}"], np.float64) for i in range(len(columns))])
    bits = [np.asarray(table[f"k{len(columns) + w}"], np.uint64) for w in range(len(words))]
    cells = Cells.from_arrays(
        s,
        unpack_words(bits, len(s), len(names["y_names"])),
        np.asarray(table["samples"], np.float64),
        names["s_names"],
        names["y_names"],
        proxies=names["proxies"],
        bins=bins,
    )
    return cells if bins is None else Cells(**{**_fields(cells), "s_error": s_error})


def _fields(cells: Cells) -> dict[str, Any]:
    return {name: getattr(cells, name) for name in cells.__dataclass_fields__}


def _group(
    paths: list[str],
    columns: list[str],
    words: list[str],
    memory_limit: str | None,
    threads: int | None,
    bins: int | None,
    temp_directory: str | None,
    holdout: float,
) -> tuple[pa.Table, float]:
    """The group-by itself, and the largest change that rounding made."""
    settings: dict[str, Any] = {"preserve_insertion_order": False}
    settings |= {"memory_limit": memory_limit} if memory_limit else {}
    settings |= {"threads": threads} if threads else {}
    settings |= {"temp_directory": temp_directory} if temp_directory else {}
    quoted = [_quote(name) for name in columns]
    keys = [name if bins is None else f"round({name}::DOUBLE * {bins}) / {bins}" for name in quoted]
    keys += [_quote(name) for name in words]
    selected = ", ".join(f"{key} AS k{i}" for i, key in enumerate(keys))
    # NaN is the largest float to DuckDB, so it must not reach max().
    changes = [
        f"coalesce(max(abs({q} - round({q}::DOUBLE * {bins}) / {bins})) FILTER (NOT isnan({q})), 0)" for q in quoted
    ]
    error = "0.0" if bins is None else f"greatest({', '.join([*changes, '0.0'])})"
    with duckdb.connect(config=settings) as connection:
        try:
            source = f"read_parquet(?) WHERE {sql_of_kept(holdout)}"
            query = f"SELECT {selected}, count(*) AS samples, {error} AS change FROM {source} GROUP BY ALL"
            table: pa.Table = connection.sql(query, params=[paths]).to_arrow_table()
        except duckdb.Error as cause:
            first = str(cause).splitlines()[0]
            raise UserError(
                f"the attribute files cannot be counted ({first}): annotate again or raise memory_limit"
            ) from cause
    change = float(np.asarray(table["change"]).max()) if table.num_rows else 0.0
    return table, change


def _quote(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def unpack_words(words: Sequence[NDArray[np.uint64]], rows: int, concepts: int) -> sp.csr_array:
    """(rows, concepts) sparse 0/1 matrix from bit-packed words; a piece at a time, so that memory stays bounded."""
    lengths, indices = [np.zeros(1, np.int64)], [np.zeros(0, np.int32)]
    for length, columns in _unpacked(words, rows, concepts):
        lengths.append(length)
        indices.append(columns)
    indptr = np.cumsum(np.concatenate(lengths))
    flat = np.concatenate(indices)
    return sp.csr_array((np.ones(flat.size, np.uint8), flat, indptr), shape=(rows, concepts))


def _unpacked(
    words: Sequence[NDArray[np.uint64]], rows: int, concepts: int
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int32]]]:
    for start in range(0, rows if concepts else 0, CHUNK):
        packed = np.column_stack([word[start : start + CHUNK] for word in words]).astype("<u8")
        bits = np.unpackbits(packed.view(np.uint8), axis=1, bitorder="little", count=concepts)
        row, column = np.nonzero(bits)
        yield np.bincount(row, minlength=len(packed)).astype(np.int64), column.astype(np.int32)
    if not concepts:
        yield np.zeros(rows, np.int64), np.zeros(0, np.int32)
