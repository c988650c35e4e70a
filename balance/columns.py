"""Columns of a data frame, as people have them, to M4's attributes and concepts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import narwhals as nw
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import scipy.sparse as sp
from numpy.typing import NDArray

from balance.errors import UserError
from balance.m4.problem import suggest

Floats = NDArray[np.float64]
MOST_GROUPS = 100
"""Values of an attribute's column from which on it is taken for free text."""


def read_frame(frame: Any) -> nw.DataFrame[Any]:
    """Any data frame that narwhals knows: pandas, polars, pyarrow, ...

    Raises:
        UserError: it is none.
    """
    try:
        return nw.from_native(frame, eager_only=True)
    except TypeError as error:
        raise UserError(
            f"A {type(frame).__name__} is no data frame; give one of pandas or polars, or a table of pyarrow."
        ) from error


def attribute_columns(
    frame: nw.DataFrame[Any], columns: Sequence[str], names: Sequence[str] | None = None
) -> tuple[Floats, list[str]]:
    """Attributes of rows.

    Booleans and numbers in [0, 1] are one attribute; text and categories are a group, one attribute a value, named
    `column=value`. What is missing (None, NaN, NA) is unknown.

    Args:
        frame: the rows.
        columns: which columns are attributes.
        names: the attributes wanted, in this order: values of a group that are not among them are unknown.

    Returns:
        s (n, m), NaN where unknown, and the m names.

    Raises:
        UserError: no such column, or values that are no attribute.
    """
    parts: list[Floats] = []
    found: list[str] = []
    for column in columns:
        values, native = _column(frame, column), None
        if _is_number(values.type):
            native = _numbers(values, column)
            wrong = native[(native < 0) | (native > 1)]
            if wrong.size:
                raise UserError(
                    f"The column {column!r} holds {wrong[0]:g}: an attribute is 0, 1, a probability between, or "
                    "missing; cut other numbers into groups first, as pandas.cut does."
                )
            parts.append(native[:, None])
            found.append(column)
            continue
        codes, labels = _groups(values, column)
        if names is None and not 2 <= len(labels) <= MOST_GROUPS:
            raise UserError(
                f"The column {column!r} has {len(labels):,} different values; an attribute has 2 to {MOST_GROUPS}."
            )
        wanted = [f"{column}={label}" for label in labels] if names is None else _of_column(names, column)
        place = {name: k for k, name in enumerate(wanted)}
        mapped = np.array([place.get(f"{column}={label}", -1) for label in labels] + [-1])[codes]
        part = np.full((len(codes), len(wanted)), np.nan)
        known = mapped >= 0
        part[known] = np.eye(len(wanted))[mapped[known]]
        parts.append(part)
        found += wanted
    return np.hstack(parts) if parts else np.zeros((len(frame), 0)), found


def concept_columns(
    frame: nw.DataFrame[Any], columns: Sequence[str], names: Sequence[str] | None = None
) -> tuple[sp.csr_array, list[str]]:
    """Concepts of rows.

    Booleans and numbers 0 and 1 are one concept; text, categories and lists of text are one concept a value, named
    `column=value`. What is missing is absent.

    Args:
        frame: the rows.
        columns: which columns are concepts.
        names: the concepts wanted, in this order; other values are passed over.

    Returns:
        y (n, c) sparse 0/1, and the c names.

    Raises:
        UserError: no such column, or values that are no concept.
    """
    rows: list[NDArray[np.int64]] = []
    places: list[NDArray[np.int64]] = []
    found: list[str] = []
    for column in columns:
        values = _column(frame, column)
        if _is_number(values.type):
            number = np.nan_to_num(_numbers(values, column))
            if wrong := [one for one in np.unique(number).tolist() if one not in (0, 1)][:1]:
                raise UserError(
                    f"The column {column!r} holds {wrong[0]:g}: a concept is 0 or 1, true or false; threshold it first."
                )
            rows.append(np.flatnonzero(number))
            places.append(np.full(rows[-1].size, len(found)))
            found.append(column)
            continue
        row = np.arange(len(values))
        if pa.types.is_list(values.type) or pa.types.is_large_list(values.type):
            row = pc.list_parent_indices(values).to_numpy(zero_copy_only=False).astype(np.int64)
            values = pc.list_flatten(values)
        codes, labels = _groups(values, column)
        wanted = [f"{column}={label}" for label in labels] if names is None else _of_column(names, column)
        place = {name: len(found) + r for r, name in enumerate(wanted)}
        mapped = np.array([place.get(f"{column}={label}", -1) for label in labels] + [-1])[codes]
        rows.append(row[mapped >= 0])
        places.append(mapped[mapped >= 0])
        found += wanted
    at = (np.concatenate(rows), np.concatenate(places)) if rows else (np.zeros(0, int), np.zeros(0, int))
    y = sp.csr_array((np.ones(at[0].size, np.int64), at), shape=(len(frame), len(found)))
    y.sum_duplicates()
    y.data[:] = 1
    return y.astype(np.uint8), found


def columns_of(names: Sequence[str], frame: nw.DataFrame[Any]) -> list[str]:
    """The columns of a frame that gave these names of attributes or concepts."""
    there = set(frame.columns)
    return list(dict.fromkeys(name if name in there else name.partition("=")[0] for name in names))


def _of_column(names: Sequence[str], column: str) -> list[str]:
    return [name for name in names if name.startswith(f"{column}=")]


def _column(frame: nw.DataFrame[Any], column: str) -> pa.Array:
    if column not in frame.columns:
        raise UserError(f"There is no column {column!r}{suggest(column, frame.columns)}; check the names given.")
    series = frame[column]
    native: Any = series.to_native()
    if nw.dependencies.is_pandas_series(native) and native.dtype == "category":  # intervals of pandas.cut, too
        codes = native.cat.codes.to_numpy()
        labels = pa.array([str(one) for one in native.cat.categories], pa.string())
        return pa.DictionaryArray.from_arrays(pa.array(codes, mask=codes < 0), labels)
    try:
        values = series.to_arrow()
    except (pa.ArrowException, TypeError) as error:
        raise UserError(f"The column {column!r} holds values of several kinds; make them alike.") from error
    return values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values


def _is_number(kind: pa.DataType) -> bool:
    kinds = pa.types
    numeric = kinds.is_boolean(kind) or kinds.is_integer(kind) or kinds.is_floating(kind) or kinds.is_decimal(kind)
    return bool(numeric or kinds.is_null(kind))


def _numbers(values: pa.Array, column: str) -> Floats:
    kind = values.type
    if pa.types.is_boolean(kind):
        values = values.cast(pa.uint8())
    numbers = np.asarray(values.cast(pa.float64()).to_numpy(zero_copy_only=False), np.float64)
    if np.isinf(numbers).any():
        raise UserError(f"The column {column!r} holds an infinite number; mend it.")
    return numbers


def _groups(values: pa.Array, column: str) -> tuple[NDArray[np.int64], list[str]]:
    """For each row which label, -1 for none; and the labels, of categories all, of text those that occur."""
    if not pa.types.is_dictionary(values.type):
        if not (pa.types.is_string(values.type) or pa.types.is_large_string(values.type)):
            raise UserError(f"The column {column!r} holds {values.type}; give booleans, numbers, text or categories.")
        values = values.dictionary_encode()
        order = pc.sort_indices(values.dictionary).to_numpy()
    else:
        order = np.arange(len(values.dictionary))
    rank = np.append(np.argsort(order), -1)  # the last is for what is missing
    codes = pc.fill_null(values.indices.cast(pa.int64()), -1).to_numpy(zero_copy_only=False)
    labels = [str(one) for one in values.dictionary.to_pylist()]
    return rank[codes], [labels[i] for i in order]
