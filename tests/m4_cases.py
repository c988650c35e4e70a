"""Random small M4 problems for the tests of the solver."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

from balance import Cells, Problem


@st.composite
def small_cells(draw: st.DrawFn, max_rows: int = 12, values: tuple[float, ...] = (0.0, 1.0, 0.5, np.nan)) -> Cells:
    """A few cells with every trap: unknown and soft attributes, concepts of one gender, concepts that nobody bears."""
    rows = draw(st.integers(1, max_rows))
    m, c = draw(st.integers(1, 2)), draw(st.integers(0, 3))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    weights = np.array([4.0, 4.0, 1.0, 2.0])[: len(values)]
    s = rng.choice(values, size=(rows, m), p=weights / weights.sum())
    for k in range(m):
        if np.isnan(s[:, k]).all():
            s[0, k] = 1.0
    y = (rng.random((rows, c)) < rng.random(c) * draw(st.sampled_from([0.3, 1.0]))).astype(int)
    counts = rng.integers(1, 50, rows) if draw(st.booleans()) else None
    return Cells.from_arrays(s, y, counts, [f"s{k}" for k in range(m)], [f"y{r}" for r in range(c)])


@st.composite
def small_problem(draw: st.DrawFn, cells: Cells) -> Problem:
    """Any kind of problem on the cells; many cannot be met."""
    cap = draw(st.sampled_from([1.0, 1.5, 3.0]))
    tolerance = st.sampled_from([0.0, 0.01, 0.05, 0.3])
    return Problem(
        target={name: draw(st.sampled_from([0.0, 0.3, 0.5, 0.5, 1.0])) for name in cells.s_names},
        eps_representation=draw(tolerance),
        eps_association=draw(tolerance),
        association=draw(st.sampled_from(["per_concept", "per_concept", "joint"])),
        keep=cap * draw(st.sampled_from([0.05, 0.3, 0.5, 0.9, 1.0])),
        min_concept_kept=draw(st.sampled_from([0.0, 0.25, 0.25, 1.0])),
        max_repeat=cap,
        penalty=draw(st.sampled_from([1.0, 100.0])),
    )


@st.composite
def small_pair(draw: st.DrawFn, max_rows: int = 12) -> tuple[Cells, Problem]:
    """Cells and a problem on them."""
    cells = draw(small_cells(max_rows))
    return cells, draw(small_problem(cells))
