"""Attributes and concepts from tables: parquet files joined on the key, and on the shard where keys are not unique."""

import glob
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from balance.errors import UserError
from balance.labels.metadata import MAPPING_KEYS, FieldMapping
from balance.stream.damage import without_suffix
from balance.stream.opening import is_local
from balance.stream.samples import Sample

_TABLE_KEYS = {"path", "key", "shard", "score", "min_score", "missing"}
_FEW = 0.5  # share of samples with a row below which a table that need not have one for each is worth a warning
_TABLE = "read_parquet($files, union_by_name = true)"


class TableSource:
    """A column of parquet files joined on the key, such as a detector's labels: one row a sample, or one a detection.

    Settings beside those of `FieldMapping`: `path` (file, folder or glob), `key` (the column of keys, `key` by
    default), `shard` (the column that names the shard, needed where keys repeat over shards: an address, or the end of
    one, with or without `.tar`), `score` and `min_score` (rows below are left out), `missing`: `error` (default) if a
    sample without a row is a mistake, `unknown` if it is not.
    """

    needs: frozenset[str] = frozenset()

    def __init__(self, config: Mapping[str, Any]) -> None:
        if unknown := set(config) - MAPPING_KEYS - _TABLE_KEYS:
            known = ", ".join(sorted(MAPPING_KEYS | _TABLE_KEYS))
            raise UserError(f"attributes: a table source has no key {min(unknown)!r}; known are {known}.")
        self._mapping = FieldMapping(config)
        self.s_names, self.y_names, self.proxies = self._mapping.s_names, self._mapping.y_names, self._mapping.proxies
        self._files = _parquet_files(str(config.get("path") or ""))
        self._key, self._shard = str(config.get("key", "key")), config.get("shard")
        self._score = config.get("score")
        try:
            self._min_score = float(config.get("min_score", 0.0))
        except (TypeError, ValueError) as error:
            raise UserError(f"attributes: min_score={config['min_score']!r} is no number.") from error
        self._missing = str(config.get("missing", "error"))
        if self._missing not in ("error", "unknown"):
            raise UserError(f"attributes: missing={self._missing!r} is neither error nor unknown.")
        self._shards: list[str] | None = None  # the values of the column of shards
        self._check_columns()

    @property
    def _name(self) -> str:
        more = f" and {len(self._files) - 1} more" if len(self._files) > 1 else ""
        return f"the table {self._files[0]}{more}"

    def _check_columns(self) -> None:
        """Each part has the columns that are asked for, and numbers where numbers are needed."""
        numbers = {self._score} | ({self._mapping.field} if self._mapping.way == "probability" else set())
        wanted = [str(name) for name in (self._key, self._shard, self._mapping.field, self._score) if name is not None]
        for file in self._files:
            try:
                schema = pq.read_schema(file)
            except (OSError, pa.ArrowException) as error:
                reason = str(error).splitlines()[0]
                raise UserError(f"The table {file} is no readable parquet file: {reason}") from error
            for name in wanted:
                if name not in schema.names:
                    raise UserError(f"The table {file} has no column {name!r}; it has {', '.join(schema.names)}.")
                kind = schema.field(name).type
                if name in numbers and not _holds_numbers(kind):
                    raise UserError(f"The column {name!r} of the table {file} must hold numbers; it holds {kind}.")
                if name in (self._key, self._shard) and pa.types.is_nested(kind):
                    raise UserError(f"The column {name!r} of the table {file} must hold texts; it holds {kind}.")

    def describe(self) -> dict[str, Any]:
        """What decides the result, as plain data; the files by size and time of change."""
        files = [[os.path.abspath(f), os.stat(f).st_size, os.stat(f).st_mtime_ns] for f in self._files]
        found = {"kind": "table", "version": 1, "files": files, "key": self._key, "score": self._score}
        found |= {"min": self._min_score, "missing": self._missing, **self._mapping.describe()}
        return found if self._shard is None else {**found, "shard": self._shard}

    def annotate(self, samples: Sequence[Sample]) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.uint8]]:
        """See `Annotator.annotate`.

        Raises:
            UserError: samples without a row, unless `missing: unknown`.
        """
        keys = [sample.key for sample in samples]
        found = self._look_up(keys, samples[0].shard) if samples else {}
        missing = [key for key in keys if key not in found]
        if missing and self._missing == "error":
            there = self._rows(f"SELECT {_quoted(self._key)}::VARCHAR FROM {_TABLE} LIMIT 1")
            raise UserError(
                f"{self._name} lacks {len(missing)} of {len(keys)} keys, {missing[0]!r} the first (its own are such as "
                f"{there[0][0] if there else None!r}); add them, or set missing: unknown if samples without a row are "
                "meant"
            )
        return self._mapping.apply([found.get(key) for key in keys])

    def _look_up(self, keys: list[str], shard: str) -> dict[str, list[Any]]:
        """Raw values by key; an empty list for a key whose rows all fall below `min_score`."""
        column, key = _quoted(self._mapping.field), _quoted(self._key)
        kept = f"{_quoted(str(self._score))} >= {self._min_score}" if self._score else "true"
        mine, parameters = "true", dict[str, Any](keys=keys)
        if self._shard is not None:
            value = matching_value(self._shard_values(), shard)
            if value is None:
                return {}
            mine, parameters = f"{_quoted(str(self._shard))}::VARCHAR = $shard", {"keys": keys, "shard": value}
        query = (
            f"SELECT {key}::VARCHAR AS k, "
            f"list({column} ORDER BY {column}) FILTER (WHERE {kept} AND {column} IS NOT NULL) "
            f"FROM {_TABLE} SEMI JOIN (SELECT unnest($keys) AS wanted) ON {key}::VARCHAR = wanted "
            f"WHERE {mine} GROUP BY k"
        )
        return {k: _flat(values or []) for k, values in self._rows(query, **parameters)}

    def _shard_values(self) -> list[str]:
        if self._shards is None:
            column = _quoted(str(self._shard))
            rows = self._rows(f"SELECT DISTINCT {column}::VARCHAR FROM {_TABLE} WHERE {column} IS NOT NULL")
            self._shards = sorted(row[0] for row in rows)
        return self._shards

    def check_shards(self, shards: Sequence[str]) -> None:
        """Hold the column of shards, if there is one, against the shards that are to be labelled.

        Raises:
            UserError: it names none of them, or a value stands for several.
        """
        if self._shard is None:
            return
        values = self._shard_values()
        by_value: dict[str, str] = {}
        for shard in shards:
            value = matching_value(values, shard)
            if value is not None and by_value.setdefault(value, shard) != shard:
                raise UserError(
                    f"The column {self._shard!r} of {self._name} names {value!r}, which stands for {by_value[value]} "
                    f"and {shard} alike; write enough of the path to tell them apart."
                )
        if not by_value:
            raise UserError(
                f"The column {self._shard!r} of {self._name} names none of the {len(shards)} shards; it holds "
                f"{', '.join(map(repr, values[:3])) or 'nothing'}, and the first shard is {shards[0]}."
            )

    def check_labelled(self, files: Sequence[Path], shards: Sequence[str]) -> list[str]:
        """Hold the table against all samples that were labelled by it.

        Args:
            files: attribute files.
            shards: their shards, in the same order.

        Returns:
            What a user should know, a sentence each.

        Raises:
            UserError: keys repeat over shards and nothing tells which sample a row labels, or no sample has a row.
        """
        if self._shard is None:
            self._refuse_repeated(files, shards)
        return [*self._matches(files, shards), *self._contradictions()]

    def _refuse_repeated(self, files: Sequence[Path], shards: Sequence[str]) -> None:
        key = _quoted(self._key)
        rows = self._rows(
            "SELECT key, count(*) AS n, min(filename), max(filename), count(*) OVER () FROM "
            "read_parquet($labelled, filename = true) GROUP BY key HAVING n > 1 AND key IN "
            f"(SELECT {key}::VARCHAR FROM {_TABLE}) ORDER BY key LIMIT 1",
            labelled=[str(path) for path in files],
        )
        if rows:
            by_file = {str(path): shard for path, shard in zip(files, shards, strict=True)}
            repeated, times, one, other, count = rows[0]
            held = " and ".join(sorted((by_file[one], by_file[other])))
            raise UserError(
                f"{count:,} keys of {self._name} stand for several samples each, such as {repeated!r}, which {times} "
                f"shards hold ({held}): add a column to the table that names each row's shard, and set shard: to that "
                "column's name in this source."
            )

    def _matches(self, files: Sequence[Path], shards: Sequence[str]) -> list[str]:
        """How many samples have a row, where that is no condition."""
        if self._missing == "error":
            return []
        key, shard, join = _quoted(self._key), "", ""
        parameters: dict[str, Any] = {"labelled": [str(path) for path in files]}
        if self._shard is not None:
            shard = f", {_quoted(str(self._shard))}::VARCHAR AS shard"
            join = "JOIN (SELECT unnest($labelled) AS filename, unnest($values) AS shard) USING (filename)"
            parameters["values"] = [matching_value(self._shard_values(), one) or "" for one in shards]
        using = "key, shard" if shard else "key"
        rows = self._rows(
            f"WITH labelled AS (SELECT {using} FROM read_parquet($labelled, filename = true) {join}), "
            f"known AS (SELECT DISTINCT {key}::VARCHAR AS key {shard} FROM {_TABLE}) SELECT "
            "(SELECT count(*) FROM labelled), (SELECT count(*) FROM labelled SEMI JOIN known "
            f"USING ({using})), (SELECT min(key) FROM labelled), (SELECT min(key) FROM known)",
            **parameters,
        )
        samples, found, example, own = rows[0]
        if samples and not found:
            raise UserError(
                f"None of the {samples:,} samples has a row in {self._name}: the data's keys are such as {example!r}, "
                f"the table's such as {own!r}; make them alike."
            )
        if found < _FEW * samples:
            return [f"{self._name} has rows for {found:,} of {samples:,} samples ({found / samples:.1%})"]
        return []

    def _contradictions(self) -> list[str]:
        """Keys whose rows disagree on an attribute, which is then unknown."""
        if self._mapping.way not in ("values", "bins"):
            return []
        column = _quoted(self._mapping.field)
        kept = f"AND {_quoted(str(self._score))} >= {self._min_score}" if self._score else ""
        by = ", ".join(f"{_quoted(str(name))}" for name in (self._key, self._shard) if name is not None)
        rows = self._rows(
            f"SELECT {_quoted(self._key)}::VARCHAR, count(*) OVER () FROM {_TABLE} WHERE {column} IS NOT NULL {kept} "
            f"GROUP BY {by} HAVING count(DISTINCT lower(trim({column}::VARCHAR))) > 1 ORDER BY 1 LIMIT 1"
        )
        if not rows:
            return []
        return [
            f"{rows[0][1]:,} keys of {self._name} have rows that differ in {self._mapping.field!r}, such as "
            f"{rows[0][0]!r}: where they mean different values, the attribute is unknown"
        ]

    def _rows(self, query: str, **parameters: Any) -> list[tuple[Any, ...]]:
        """The rows of a query on the table.

        Raises:
            UserError: DuckDB can't run it.
        """
        try:
            with duckdb.connect() as connection:
                connection.execute("SET threads = 1")  # the job is parallel over shards
                return connection.execute(query, {"files": self._files, **parameters}).fetchall()
        except (duckdb.Error, UnicodeError) as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise UserError(f"{self._name} can't be read: {reason}") from error


def matching_value(values: Sequence[str], shard: str) -> str | None:
    """The value that names a shard: its address or the end of it, with or without `.tar`; the longest that does.

    A number also names a shard whose file has that number: 7 for `00007.tar`.
    """
    address = without_suffix(os.path.abspath(shard) if is_local(shard) else shard)
    stem = address.rpartition("/")[2]
    found = []
    for value in values:
        end = without_suffix(value.strip().removeprefix("./"))
        if (
            address == end
            or address.endswith("/" + end)
            or (end.isdigit() and stem.isdigit() and int(end) == int(stem))
        ):
            found.append(value)
    return max(found, key=len, default=None)


def _holds_numbers(kind: pa.DataType) -> bool:
    kinds = pa.types
    if kinds.is_list(kind) or kinds.is_large_list(kind):
        return _holds_numbers(kind.value_type)
    return kinds.is_integer(kind) or kinds.is_floating(kind) or kinds.is_decimal(kind) or kinds.is_null(kind)


def _flat(values: list[Any]) -> list[Any]:
    return [item for value in values for item in (value if isinstance(value, list) else [value])]


def _parquet_files(path: str) -> list[str]:
    if not path:
        raise UserError("attributes: a table source needs 'path', the parquet file(s) to join.")
    if Path(path).is_dir():
        files = sorted(map(str, Path(path).rglob("*.parquet")))
    else:
        files = [path] if Path(path).is_file() else sorted(glob.glob(path, recursive=True))
    if not files:
        raise UserError(f"attributes: no parquet file matches path={path!r}.")
    return files


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
