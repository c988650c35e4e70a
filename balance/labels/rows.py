"""Samples from parquet tables of metadata, where there are no pictures yet: a key and a caption a row.

A table is worked on in parts of whole row groups, each with an address of its own (`a.parquet#0-3`) and an attribute
file of its own, so that memory does not grow with the table, parts are labelled side by side, and what is done is
not done again.
"""

from __future__ import annotations

import glob
import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from balance.errors import UserError

PART_ROWS = 250_000
"""Rows of a part, unless one row group alone has more."""
_BATCH = 65_536
_PART = re.compile(r"(?s)(.+)#(\d+)-(\d+)")
_ROW = "__row__"


@dataclass(frozen=True)
class TableRows:
    """What of a table is labelled.

    Attributes:
        columns: `key` and `caption` to the names of the columns.
        where: an expression over the columns, in DuckDB's SQL, that is true of the rows that count; None for all.
        meta: hand the other columns on as a sample's JSON.
        tests: the columns that `where` needs.
    """

    columns: Mapping[str, str] = field(default_factory=lambda: {"key": "key", "caption": "caption"})
    where: str | None = None
    meta: bool = False
    tests: tuple[str, ...] = field(init=False, default=())

    def __post_init__(self) -> None:
        columns = self.columns
        if set(columns) != {"key", "caption"} or not all(isinstance(name, str) and name for name in columns.values()):
            raise UserError(
                f"data.columns={dict(columns)} must name two columns, as in data.columns={{key: uid, caption: text}}."
            )
        if self.where is not None:
            object.__setattr__(self, "tests", tuple(columns_of_condition(str(self.where))))

    def fingerprint(self, annotator: str) -> str:
        """What made the labels: the annotator of this fingerprint, on these rows."""
        described = json.dumps([1, annotator, asdict(self)], sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(described.encode()).hexdigest()[:32]


@dataclass(frozen=True)
class Row:
    """A row: its key, None where it has none, its captions, and other columns."""

    key: str | None
    captions: tuple[str, ...]
    meta: dict[str, Any]


def is_table(address: str) -> bool:
    """Whether an address is of a parquet table, or a part of one."""
    return split_part(address)[0].endswith(".parquet")


def split_part(address: str) -> tuple[str, range | None]:
    """The path of a table, and the row groups that an address means; None for all."""
    found = _PART.fullmatch(address)
    if found is None or not found[1].endswith(".parquet"):
        return address, None
    return found[1], range(int(found[2]), int(found[3]) + 1)


def expand_tables(spec: str | Sequence[str], what: str = "data.train", rows: int = PART_ROWS) -> list[str]:
    """Turn folders, globs and paths of parquet files into the addresses of their parts, in a stable order.

    Args:
        spec: a folder (the parquet files in it), a glob, a path, or a list of these.
        what: the name of the setting, for messages.
        rows: rows of a part, about.

    Raises:
        UserError: nothing is there, or a file is no parquet table.
    """
    paths: list[str] = []
    for entry in [spec] if isinstance(spec, str) else spec:
        if os.path.isdir(entry):
            found = sorted(str(path) for path in Path(entry).glob("*.parquet"))
        else:
            found = [entry] if os.path.isfile(entry) else sorted(glob.glob(entry, recursive=True))
        if not found:
            raise UserError(f"{what}={entry}: there is no parquet table; give a folder, a glob or a path.")
        paths += found
    if len(set(paths)) < len(paths):
        raise UserError(f"{what} names the table {next(one for one in paths if paths.count(one) > 1)} twice.")
    return [part for path in paths for part in _parts(path, rows)]


def _parts(path: str, rows: int) -> Iterator[str]:
    with _opened(path) as file:
        sizes = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
    first, held = 0, 0
    for group, size in enumerate(sizes):
        if held and held + size > rows:
            yield f"{path}#{first}-{group - 1}"
            first, held = group, 0
        held += size
    if held:
        yield f"{path}#{first}-{len(sizes) - 1}"


def read_rows(address: str, wanted: TableRows) -> Iterator[Row]:
    """The rows of a part for which `where` holds, in order.

    Raises:
        UserError: the table can't be read, lacks a column, or `where` does not fit its columns.
    """
    path, groups = split_part(address)
    with _opened(path) as file:
        names = file.schema_arrow.names
        for name in (*wanted.columns.values(), *wanted.tests):
            if name not in names:
                shown = ", ".join(names[:30])
                raise UserError(f"{path} has no column {name!r}; it has {shown}. data.columns names key and caption.")
        columns = names if wanted.meta else list(dict.fromkeys([*wanted.columns.values(), *wanted.tests]))
        groups = range(file.num_row_groups) if groups is None else groups
        if groups and groups[-1] >= file.num_row_groups:
            raise UserError(f"{path} has changed: it has {file.num_row_groups} row groups; start again.")
        with _sealed() as connection:
            for batch in file.iter_batches(_BATCH, list(groups), columns):
                yield from _rows(_that_hold(connection, path, batch, wanted), wanted)


def _opened(path: str) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(path)
    except (OSError, pa.ArrowInvalid) as error:
        raise UserError(f"The table {path} can't be read: {' '.join(str(error).split())[:200]}.") from error


def _rows(batch: pa.RecordBatch, wanted: TableRows) -> Iterator[Row]:
    keys = pc.cast(batch[wanted.columns["key"]], pa.string()).to_pylist()
    captions = batch[wanted.columns["caption"]].to_pylist()
    others: Sequence[dict[str, Any]] = batch.to_pylist() if wanted.meta else [{}] * len(keys)
    for key, caption, meta in zip(keys, captions, others, strict=True):
        texts = caption if isinstance(caption, list) else [caption]
        yield Row(key, tuple(text for text in texts if isinstance(text, str) and text.strip()), meta)


def _that_hold(
    connection: duckdb.DuckDBPyConnection, path: str, batch: pa.RecordBatch, wanted: TableRows
) -> pa.RecordBatch:
    if wanted.where is None:
        return batch
    tested = batch.select(list(wanted.tests)).append_column(_ROW, pa.array(np.arange(len(batch))))
    connection.register("rows", pa.Table.from_batches([tested]))
    try:
        found: NDArray[np.int64] = connection.execute(
            f"SELECT {_ROW} FROM rows WHERE ({wanted.where}\n) ORDER BY {_ROW}"
        ).fetchnumpy()[_ROW]
    except duckdb.Error as error:
        reason = str(error).splitlines()[0][:200]
        raise UserError(f"data.where={wanted.where!r} does not fit the columns of {path}: {reason}.") from error
    return batch.take(pa.array(found))


def columns_of_condition(where: str) -> list[str]:
    """The columns that a condition names, sorted; it is only parsed.

    Raises:
        UserError: it is no single expression over the columns of one row: a query inside, several statements, a window.
    """
    with _sealed() as connection:
        query = [f"SELECT 1 WHERE (\n{where}\n)"]
        ((text,),) = connection.execute("SELECT json_serialize_sql(?::VARCHAR)", query).fetchall()
    parsed: dict[str, Any] = json.loads(text)
    if parsed["error"]:
        reason = str(parsed.get("error_message", "")).splitlines()[:1]
        raise UserError(f"data.where={where!r} can't be read as SQL: {' '.join(reason)}.")
    statements = parsed["statements"]
    node = statements[0]["node"]
    plain = len(statements) == 1 and node["type"] == "SELECT_NODE" and node["from_table"]["type"] == "EMPTY"
    if not plain or node["modifiers"] or node["group_expressions"] or node["having"] or node["qualify"]:
        raise UserError(f"data.where={where!r} must be one condition, such as similarity > 0.28 AND language = 'en'.")
    columns: set[str] = set()
    for one in _expressions(node["where_clause"]):
        if one["class"] in ("SUBQUERY", "WINDOW", "PARAMETER", "STAR", "DEFAULT"):
            raise UserError(
                f"data.where={where!r} holds a {one['class'].lower()}; it must be a condition on the columns of one "
                "row."
            )
        if one["class"] == "COLUMN_REF":
            columns.add(one["column_names"][0])
    if not columns:
        raise UserError(f"data.where={where!r} names no column; leave it out to take all rows.")
    return sorted(columns)


def _expressions(tree: Any) -> Iterator[dict[str, Any]]:
    if isinstance(tree, dict):
        if "class" in tree:
            yield tree
        for part in tree.values():
            yield from _expressions(part)
    elif isinstance(tree, list):
        for part in tree:
            yield from _expressions(part)


def _sealed() -> duckdb.DuckDBPyConnection:
    """A database in memory that reaches no file, no network, no extension and no variable of Python."""
    connection = duckdb.connect(
        ":memory:",
        config={
            "enable_external_access": "false",
            "autoinstall_known_extensions": "false",
            "autoload_known_extensions": "false",
            "allow_community_extensions": "false",
            "python_enable_replacements": "false",
            "memory_limit": "1GB",
            "threads": "1",
        },
    )
    connection.execute("SET lock_configuration = true")
    return connection
