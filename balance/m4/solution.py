"""What every method of solving hands over: rates, and the prices that they follow from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from balance.m4.dual import Vector

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Solution:
    """What a method found, in the data's units.

    Attributes:
        q: (n,) rates; on the solver's device until `solve` hands them over.
        v: (J,) prices.
        mu: price of the keep rate.
        keep: eta.
        prices: (J,) V_j, the top of each price.
        set_aside: (J,) constraints that cannot hold at any rate that `keep="auto"` may choose.
        converged: whether the method reached the gap it was asked for.
    """

    q: Vector
    v: Floats
    mu: float
    keep: float
    prices: Floats
    set_aside: NDArray[np.bool_]
    converged: bool = True
