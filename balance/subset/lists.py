"""A choice as lists: keys as text, weights as parquet."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from balance.errors import UserError
from balance.files import whole_file, write_whole
from balance.subset.choice import Choice, Chosen


def write_keys(chosen: Iterable[Chosen], out: Path) -> None:
    """One key a line, as often as its sample is used, in the order of the shards.

    Raises:
        UserError: a key with a line end in it.
    """
    with whole_file(out) as part, open(part, "w", encoding="utf-8", newline="\n") as file:
        for shard in chosen:
            for key, uses in zip(shard.keys, shard.total.tolist(), strict=True):
                if uses and len(key.splitlines()) != 1:
                    raise UserError(f"The key {key!r} has a line end in it; take format=weights, a table.")
                file.write(f"{key}\n" * uses)


def write_weights(chosen: Iterable[Chosen], choice: Choice, out: Path) -> Path:
    """A parquet table: `key`, `shard`, `rate`, and the uses in each epoch as `uses_0`, `uses_1`, ...

    All samples are in it, also those with rate 0, a row group a shard and in its order.

    Returns:
        A table beside it, `<name>.shards.csv`: samples, mean rate and uses of each shard.
    """
    names = [f"uses_{choice.epoch + column}" for column in range(choice.epochs)]
    schema = pa.schema(
        [
            ("key", pa.string()),
            ("shard", pa.dictionary(pa.int32(), pa.string())),
            ("rate", pa.float64()),
            *((name, pa.int32()) for name in names),
        ]
    )
    totals = io.StringIO()
    rows = csv.writer(totals, lineterminator="\n")
    rows.writerow(["shard", "samples", "mean_rate", *names])
    with whole_file(out) as part, pq.ParquetWriter(part, schema, compression="zstd") as writer:
        for one in chosen:
            n = len(one.keys)
            shard = pa.DictionaryArray.from_arrays(np.zeros(n, np.int32), pa.array([one.shard], pa.string()))
            columns = [pa.array(one.keys, pa.string()), shard, pa.array(one.rates)]
            columns += [pa.array(np.ascontiguousarray(one.uses[:, column])) for column in range(choice.epochs)]
            writer.write_table(pa.Table.from_arrays(columns, schema=schema))
            rows.writerow([one.shard, n, one.rates.mean() if n else 0.0, *one.uses.sum(axis=0, dtype=np.int64)])
    return write_whole(out.with_suffix(".shards.csv"), totals.getvalue())
