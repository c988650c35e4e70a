"""The bias of data by the paper's definitions, and what a plan keeps, from the moments of cells alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from balance.m4.targets import Target

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Moments:
    """First and second moments of weighted data.

    Attributes:
        targets: names of the m balanced columns.
        concepts: names of the c concepts.
        proxies: (c,) whether a concept is a proxy.
        pi: (m,) wanted shares.
        representation: (m,) E[s_k] over samples where s_k is known.
        association: (m, c) E[y_r given s_k = 1] - E[y_r given s_k = 0]; NaN where either side is empty.
        concept_share: (m, c) E[s_k given y_r = 1]; NaN where no known sample bears the concept.
        concept_mass: (c,) sum of weights of the samples that bear the concept.
    """

    targets: tuple[str, ...]
    concepts: tuple[str, ...]
    proxies: NDArray[np.bool_]
    pi: Floats
    representation: Floats
    association: Floats
    concept_share: Floats
    concept_mass: Floats

    @property
    def representation_bias(self) -> float:
        """RB = max_k abs(E[s_k] - pi_k)."""
        return float(np.abs(self.representation - self.pi).max())

    @property
    def association_bias(self) -> float:
        """AB = max_{k,r} abs(E[y_r given s_k = 1] - E[y_r given s_k = 0]) over concepts that are no proxies."""
        return self._largest(self.association, ~self.proxies)

    @property
    def proxy_association_bias(self) -> float:
        """AB over the proxies."""
        return self._largest(self.association, self.proxies)

    @property
    def concept_gap(self) -> Floats:
        """(m, c) E[s_k given y_r = 1] - pi_k."""
        return self.concept_share - self.pi[:, None]

    def worst_concept(
        self, proxies: bool = False, among: NDArray[np.bool_] | None = None
    ) -> tuple[str, str, float] | None:
        """(concept, attribute, gap) of the largest representation gap inside a concept, of those in `among` (c,)."""
        chosen = self.proxies == proxies if among is None else (self.proxies == proxies) & among
        size = np.abs(self.concept_gap) * np.where(chosen, 1.0, np.nan)
        if not np.isfinite(size).any():
            return None
        k, r = np.unravel_index(int(np.nanargmax(size)), size.shape)
        return self.concepts[r], self.targets[k], float(self.concept_gap[k, r])

    @staticmethod
    def _largest(values: Floats, columns: NDArray[np.bool_]) -> float:
        chosen = np.abs(values[:, columns])
        return float(np.nanmax(chosen)) if np.isfinite(chosen).any() else 0.0

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; NaN becomes None."""
        worst = self.worst_concept()
        return {
            "representation_bias": self.representation_bias,
            "association_bias": self.association_bias,
            "proxy_association_bias": self.proxy_association_bias,
            "worst_concept": None if worst is None else {"concept": worst[0], "attribute": worst[1], "gap": worst[2]},
            "representation": dict(zip(self.targets, self.representation.tolist(), strict=True)),
            "association": _rows(self.association),
            "concept_share": _rows(self.concept_share),
        }


def moments_of(
    table: Floats, targets: Sequence[Target], concepts: Sequence[str], proxies: NDArray[np.bool_]
) -> Moments:
    """Moments from the operator's table M_fr = sum_c w_c phi_cf y_cr, any scale of w."""
    m = len(targets)
    pi = np.array([target.pi for target in targets])
    known = table[m : 2 * m]
    ones = table[:m] + pi[:, None] * known  # sum of w s_k y_r
    zeros = known - ones
    with np.errstate(invalid="ignore", divide="ignore"):
        association = ones[:, 1:] / _positive(ones[:, :1]) - zeros[:, 1:] / _positive(zeros[:, :1])
        share = ones / _positive(known)
    return Moments(
        tuple(target.name for target in targets),
        tuple(concepts),
        proxies,
        pi,
        share[:, 0],
        association,
        share[:, 1:],
        table[2 * m, 1:],
    )


def _positive(values: Floats) -> Floats:
    """Values with rounding dust and zeros made NaN, so that an empty group has no mean."""
    return np.where(values > 1e-15 * max(float(np.abs(values).max(initial=0.0)), 1e-300), values, np.nan)


def _rows(values: Floats) -> list[list[float | None]]:
    return [[None if np.isnan(value) else float(value) for value in row] for row in values]


def effective_sample_size(weights: Floats, q: Floats) -> float:
    """Kish's (sum w q)^2 / sum w q^2 for samples used at rates q; w is the number of samples in each cell."""
    square = float(weights @ q**2)
    return float(weights @ q) ** 2 / square if square > 0 else 0.0


def effective_per_epoch(weights: Floats, q: Floats) -> float:
    """The same for one epoch, where a sample occurs floor(q) or floor(q) + 1 times: E[n^2] = q^2 + f (1 - f)."""
    fraction = q - np.floor(q)
    square = float(weights @ (q**2 + fraction * (1 - fraction)))
    return float(weights @ q) ** 2 / square if square > 0 else 0.0
