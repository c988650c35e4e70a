"""Write attribute files with many made-up rows, to time what follows them: `python scripts/make_attribute_rows.py`.

Rows are drawn from a table of patterns with skewed attributes and concepts, in the layout of `scripts/annotate.py`.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from balance.files import whole_file
from conf.app.command import run_command

SLOTS = 1 << 22  # rows are drawn as slots of a table, in which a pattern fills slots in proportion to its weight
ROWS_A_GROUP = 1_000_000


def draw_samples(
    n: int, m: int, c: int, labels: float, skew: float, seed: int
) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.int32]]:
    """Samples as (s, indptr, concepts): Zipf concepts whose odds depend on the attributes; 30 % of s unknown.

    Args:
        n: samples.
        m: binary attributes.
        c: concepts.
        labels: mean number of concepts a sample (before repeats are merged).
        skew: spread of the log odds that an attribute adds to a concept.
        seed: of the generator.
    """
    rng = np.random.default_rng(seed)
    values = rng.random((n, m)) < np.linspace(0.3, 0.5, m)
    code = values @ (1 << np.arange(m))
    order = np.argsort(code, kind="stable")
    values, code = values[order], code[order]
    indptr = np.concatenate([[0], np.cumsum(rng.poisson(labels, n))])
    concepts = np.empty(indptr[-1], np.int32)
    log_odds = rng.normal(0, skew, (m, c))
    for pattern in range(1 << m):
        first, last = np.searchsorted(code, [pattern, pattern + 1])
        bits = (pattern >> np.arange(m)) & 1
        weight = np.arange(1, c + 1) ** -0.8 * np.exp((bits - 0.4) @ log_odds)
        draws = rng.random(indptr[last] - indptr[first])
        concepts[indptr[first] : indptr[last]] = np.searchsorted(np.cumsum(weight / weight.sum()), draws)
    s = values.astype(np.float32)
    s[rng.random(n) < 0.3] = np.nan
    s[:, 1:][rng.random((n, m - 1)) < 0.1] = np.nan
    return s, indptr, np.minimum(concepts, c - 1)


def pack(indptr: NDArray[np.int64], concepts: NDArray[np.int32], c: int) -> NDArray[np.uint64]:
    """(n, words) uint64: concept r is bit r % 64 of word r // 64."""
    n = indptr.size - 1
    words = np.zeros((n, -(-c // 64)), np.uint64)
    row = np.repeat(np.arange(n), np.diff(indptr))
    np.bitwise_or.at(words, (row, concepts // 64), np.uint64(1) << (concepts % 64).astype(np.uint64))
    return words


def write_file(task: tuple[str, int, int, int, dict[str, NDArray[np.generic]], NDArray[np.int32], bytes]) -> int:
    """One attribute file of `rows` rows."""
    path, first, rows, seed, columns, slots, metadata = task
    rng = np.random.default_rng(seed)
    schema = pa.schema([("key", pa.string()), *((name, pa.from_numpy_dtype(a.dtype)) for name, a in columns.items())])
    with (
        whole_file(Path(path)) as part,
        pq.ParquetWriter(
            part,
            schema.with_metadata({b"counterbalance": metadata}),
            compression="snappy",
            use_dictionary=[name for name in columns if name.startswith("s.")],
        ) as writer,
    ):
        for start in range(first, first + rows, ROWS_A_GROUP):
            size = min(ROWS_A_GROUP, first + rows - start)
            pick = slots[rng.integers(0, SLOTS, size)]
            keys = pc.cast(pa.array(np.arange(start, start + size)), pa.string())
            arrays = {"key": keys, **{name: values[pick] for name, values in columns.items()}}
            writer.write_table(pa.table(arrays).cast(writer.schema))
    return rows


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--rows-per-file", type=int, default=10_000_000)
    parser.add_argument("--patterns", type=int, default=400_000, help="patterns drawn (fewer differ)")
    parser.add_argument("--attributes", type=int, default=2)
    parser.add_argument("--concepts", type=int, default=50)
    parser.add_argument("--labels", type=float, default=4.0)
    parser.add_argument("--skew", type=float, default=0.5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    args = parser.parse_args(arguments)
    args.out.mkdir(parents=True, exist_ok=True)
    s, indptr, concepts = draw_samples(args.patterns, args.attributes, args.concepts, args.labels, args.skew, args.seed)
    columns: dict[str, NDArray[np.generic]] = {f"s.attribute{k}": s[:, k].copy() for k in range(args.attributes)}
    words = pack(indptr, concepts, args.concepts)
    columns |= {f"y.{w}": words[:, w].copy() for w in range(words.shape[1])}
    weight = np.random.default_rng(args.seed + 1).pareto(1.5, args.patterns) + 0.05
    slots = np.searchsorted(np.cumsum(weight / weight.sum()), (np.arange(SLOTS) + 0.5) / SLOTS).astype(np.int32)
    names = {
        "version": 1,
        "s_names": [f"attribute{k}" for k in range(args.attributes)],
        "y_names": [f"concept{r}" for r in range(args.concepts)],
        "proxies": [],
    }
    metadata = json.dumps(names).encode()
    starts = range(0, args.rows, args.rows_per_file)
    tasks = [
        (
            str(args.out / f"rows-{i:05d}.parquet"),
            start,
            min(args.rows_per_file, args.rows - start),
            args.seed + 2 + i,
            columns,
            slots,
            metadata,
        )
        for i, start in enumerate(starts)
    ]
    began, done = time.monotonic(), 0
    with ProcessPoolExecutor(args.workers) as pool:
        for rows in pool.map(write_file, tasks):
            done += rows
            rate = done / (time.monotonic() - began)
            print(f"\r{done:,} of {args.rows:,} rows, {rate:,.0f} rows/s", end="", flush=True)
    print()


if __name__ == "__main__":
    run_command(main)
