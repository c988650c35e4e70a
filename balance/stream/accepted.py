"""What the sampler really let through: running moments of the accepted samples, to hold against the plan."""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


class AcceptedMoments:
    """Sums over accepted samples; unknown attributes are left out of the means.

    Args:
        s_names: m names of attributes.
        y_names: c names of concepts.
    """

    def __init__(self, s_names: Sequence[str], y_names: Sequence[str]) -> None:
        self.s_names, self.y_names = tuple(s_names), tuple(y_names)
        m, c = len(self.s_names), len(self.y_names)
        self.samples = 0
        self.known = np.zeros(m)
        self.sum_s = np.zeros(m)
        self.sum_y = np.zeros(c)
        self.known_y = np.zeros((m, c))
        self.sum_sy = np.zeros((m, c))
        self.squares_y = np.zeros((m, c))  # of weights, for the effective number of samples

    def add(self, s: NDArray[np.float32], y: NDArray[np.uint8], weights: NDArray[np.float32] | None = None) -> None:
        """Add samples with attributes s (n, m), concepts y (n, c) and weights (n,), 1 each if not given."""
        w = np.ones(len(s)) if weights is None else weights.astype(np.float64)
        known = ~np.isnan(s)
        value = np.where(known, s, 0) * w[:, None]
        concepts = y.astype(np.float64)
        known_w = known * w[:, None]
        self.samples += len(s)
        self.known += known_w.sum(axis=0)
        self.sum_s += value.sum(axis=0)
        self.sum_y += w @ concepts
        self.known_y += known_w.T @ concepts
        self.sum_sy += value.T @ concepts
        self.squares_y += (known_w * w[:, None]).T @ concepts

    def sums(self) -> dict[str, Floats]:
        """The sums, by name, for a checkpoint."""
        return {
            "samples": np.array(float(self.samples)),
            "known": self.known,
            "sum_s": self.sum_s,
            "sum_y": self.sum_y,
            "known_y": self.known_y,
            "sum_sy": self.sum_sy,
            "squares_y": self.squares_y,
        }

    def load(self, sums: dict[str, Floats]) -> None:
        """Go on from sums that `sums` gave."""
        self.samples = int(sums["samples"])
        self.known, self.sum_s, self.sum_y = sums["known"].copy(), sums["sum_s"].copy(), sums["sum_y"].copy()
        self.known_y, self.sum_sy = sums["known_y"].copy(), sums["sum_sy"].copy()
        self.squares_y = sums["squares_y"].copy()

    @property
    def representation(self) -> Floats:
        """E[s_k] over the samples where it is known, (m,); NaN where it never is."""
        return _ratio(self.sum_s, self.known)

    @property
    def effective_y(self) -> Floats:
        """How many equally weighted samples of known s_k would tell as much about concept r, (m, c)."""
        return _ratio(self.known_y**2, self.squares_y)

    @property
    def inside(self) -> Floats:
        """E[s_k given y_r = 1] over the samples where s_k is known, (m, c); NaN where there are none."""
        return _ratio(self.sum_sy, self.known_y)


def _ratio(above: Floats, below: Floats) -> Floats:
    return np.divide(above, below, out=np.full_like(above, np.nan), where=below > 0)


def over_processes(
    mine: AcceptedMoments, gather: Callable[[dict[str, Floats]], list[dict[str, Floats]]]
) -> AcceptedMoments:
    """The moments of what all processes accepted; `gather` gives every process all processes' values."""
    parts = gather(mine.sums())
    whole = AcceptedMoments(mine.s_names, mine.y_names)
    whole.load({name: np.asarray(sum(part[name] for part in parts)) for name in parts[0]})
    return whole
