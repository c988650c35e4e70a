"""From a data frame to a plan and a rate for each row, without files, shards or a trainer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import narwhals as nw
import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from balance.columns import attribute_columns, columns_of, concept_columns, read_frame
from balance.errors import UserError
from balance.m4.cells import Cells
from balance.m4.plan import Plan
from balance.m4.problem import Problem
from balance.m4.solve import solve

_ROWS = 1_000_000  # whose rates are computed at a time


class Weighted(NamedTuple):
    """What `from_pandas` gives.

    Attributes:
        plan: the plan.
        rate: the rate q of each row: a series of the frame's own library, with its index.
    """

    plan: Plan
    rate: Any


def from_pandas(
    frame: Any,
    attributes: Sequence[str],
    concepts: Sequence[str] = (),
    *,
    target: Mapping[str, Any] | None = None,
    proxies: Sequence[str] = (),
    weights: str | None = None,
    bins: int | None = None,
    method: str = "dual",
    gap: float = 1e-6,
    **problem: Any,
) -> Weighted:
    """Solve M4 for the rows of a data frame.

        plan, df["rate"] = balance.from_pandas(df, attributes=["woman"], concepts=["nurse", "pilot"])

    Args:
        frame: one row a sample: a data frame of pandas or polars, a table of pyarrow.
        attributes: columns of sensitive attributes. Booleans and numbers in [0, 1] are one attribute; text and
            categories a group, one attribute a value, named `column=value`. What is missing is unknown.
        concepts: columns of concepts. Booleans and numbers 0 and 1 are one concept; text, categories and lists of
            text one concept a value, named `column=value`. What is missing is absent.
        target: wanted share of each attribute, as `Problem` takes it; by default 0.5, and groups uniform.
        proxies: names of concepts that are proxies.
        weights: column of weights that the samples carry already.
        bins: round probabilities to multiples of 1/bins, so that fewer patterns differ.
        method: of solving, see `solve`.
        gap: relative gap to reach.
        problem: further arguments of `Problem` (`keep=0.9`, `max_repeat=2`, ...). As in `conf/balance/m4.yaml`, `keep`
            is `auto` and `min_concept_samples` is 30 unless given.

    Returns:
        The plan, and a column of rates: the mean number of times that a row is to be used in an epoch.

    Raises:
        UserError: a column that is not there, values that are no attribute or concept, an argument out of range.
    """
    rows = read_frame(frame)
    attributes, concepts = _names(attributes, "attributes"), _names(concepts, "concepts")
    if not attributes:
        raise UserError("attributes=[] names no column; name at least one, such as attributes=['woman'].")
    s, s_names = attribute_columns(rows, attributes)
    y, y_names = concept_columns(rows, concepts)
    counts = None if weights is None else rows[weights].cast(nw.Float64).to_numpy()
    cells = Cells.from_arrays(s, y, counts, s_names, y_names, proxies=proxies, bins=bins)
    given = {"keep": "auto", "min_concept_samples": 30, **problem, "target": target or _default_target(s_names)}
    plan = solve(cells, Problem.from_dict(given), method=method, gap=gap)
    return Weighted(plan, _series(rows, _rates(plan, s, y)))


def rates_of(plan: Plan, frame: Any) -> Any:
    """The rates of other rows by a plan of `from_pandas`: as a series of the frame's own library.

    Values of groups that the plan does not know are unknown attributes, or absent concepts.

    Raises:
        UserError: a column that the plan needs is not there.
    """
    rows = read_frame(frame)
    s_names, y_names = plan.cells.s_names, plan.cells.y_names
    s, found_s = attribute_columns(rows, columns_of(s_names, rows), s_names)
    y, found_y = concept_columns(rows, columns_of(y_names, rows), y_names)
    # Groups stand together in a plan of `from_pandas`; in one from elsewhere they may not.
    s = s[:, [found_s.index(name) for name in s_names]]
    y = sp.csr_array(y[:, [found_y.index(name) for name in y_names]])
    return _series(rows, _rates(plan, s, y))


def _rates(plan: Plan, s: NDArray[np.float64], y: sp.csr_array) -> NDArray[np.float64]:
    parts = [plan.rates(s[at : at + _ROWS], y[at : at + _ROWS]) for at in range(0, len(s), _ROWS)]
    return np.concatenate(parts) if parts else np.zeros(0)


def _series(rows: nw.DataFrame[Any], rates: NDArray[np.float64]) -> Any:
    series = nw.new_series("rate", rates, nw.Float64, backend=rows.implementation)
    index = nw.maybe_get_index(rows)
    return (series if index is None else nw.maybe_set_index(series, index=index)).to_native()


def _names(columns: Sequence[str], what: str) -> list[str]:
    if isinstance(columns, str):
        raise UserError(f"{what}={columns!r} must be a list of columns: write {what}=[{columns!r}].")
    return list(dict.fromkeys(columns))


def _default_target(s_names: Sequence[str]) -> dict[str, Any]:
    return {name.partition("=")[0]: "uniform" if "=" in name else 0.5 for name in s_names}
