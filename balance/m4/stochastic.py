"""The paper's solver: projected stochastic updates of the dual variables, batch by batch, with averaging.

For each batch (Alabdulmohsin et al., "CLIP the Bias", 2024, section 5):

    q = clip(eta u - a . v - mu, 0, Q);   v <- clip(v + tau mean(q a), 0, V);   mu <- mu + tau (mean(q) - eta)

It needs no pass over the data beforehand and no memory of it, so it also serves open streams. The step tau, its decay
and the averaging are settings, since the paper leaves them open. Its prices are approximate: compare `Plan.gap`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import ArrayLike, NDArray

from balance.errors import UserError
from balance.m4.dual import settle_mean
from balance.m4.operator import features, with_constant
from balance.m4.problem import Problem
from balance.m4.system import System, open_system, utility_of
from balance.m4.targets import product_columns

Floats = NDArray[np.float64]


class PaperUpdates:
    """The running prices of the paper's solver.

    Args:
        problem: what is asked; a number for `keep`, and no target that refers to the data.
        s_names: names of the attributes.
        y_names: names of the concepts.
        step: tau.
        decay: tau / t^decay at batch t.
        average_from: number of batches after which averaging of the prices starts.
    """

    def __init__(
        self,
        problem: Problem,
        s_names: Sequence[str],
        y_names: Sequence[str],
        step: float = 10.0,
        decay: float = 0.5,
        average_from: int = 100,
    ) -> None:
        if isinstance(problem.keep, str):
            raise UserError("the stochastic solver needs a number for keep: 'auto' looks at all the data first")
        self.problem, self.keep = problem, float(problem.keep)
        self.s_names, self.y_names = tuple(s_names), tuple(y_names)
        self.system = open_system(problem, self.s_names, self.y_names)
        self.pi = np.array([target.pi for target in self.system.targets])
        self.top = self.system.prices(problem.penalty)
        self.step, self.decay, self.average_from = step, decay, average_from
        self.v, self.mu = np.zeros(self.system.size), 0.0
        self.mean_v, self.mean_mu = self.v.copy(), 0.0
        self.batches, self.samples = 0, 0.0
        self.concept_counts = np.zeros(len(self.y_names))

    def update(self, s: ArrayLike, y: Any) -> Floats:
        """See one batch: s (b, m), y (b, c) 0/1. Returns the rates (b,) it was given, before the update."""
        s_array = np.asarray(s, np.float64)
        concepts = sp.csr_array(y)
        phi, ones = self._design(s_array, concepts)
        u = utility_of(self.problem, s_array, concepts, self.s_names, self.y_names)
        assert u is not None, "utility by cell has no meaning for batches"
        self.samples += s_array.shape[0]
        self.concept_counts += np.asarray(concepts.sum(axis=0)).ravel()
        matrix = self._matrix()
        q = self._rates(phi, ones, u, matrix, self.v, self.mu)
        moments = (ones.T @ (phi * q[:, None])).T / q.size
        self.batches += 1
        tau = self.step / self.batches**self.decay
        self.v = np.clip(self.v + tau * (matrix @ moments.ravel()), 0.0, self.top)
        self.mu += tau * (float(q.mean()) - self.keep)
        weight = 1.0 / max(self.batches - self.average_from, 1)
        self.mean_v += weight * (self.v - self.mean_v)
        self.mean_mu += weight * (self.mu - self.mean_mu)
        return q

    def rates(self, s: ArrayLike, y: Any) -> Floats:
        """Rates (b,) of samples at the averaged prices."""
        s_array, concepts = np.asarray(s, np.float64), sp.csr_array(y)
        phi, ones = self._design(s_array, concepts)
        u = utility_of(self.problem, s_array, concepts, self.s_names, self.y_names)
        assert u is not None, "utility by cell has no meaning for batches"
        return self._rates(phi, ones, u, self._matrix(), self.mean_v, self.mean_mu)

    def _design(self, s: Floats, y: sp.csr_array) -> tuple[Floats, sp.csr_array]:
        columns = product_columns(s, self.s_names, [target.factors for target in self.system.targets])
        return features(columns, self.pi), with_constant(y)

    def _rates(self, phi: Floats, ones: sp.csr_array, u: Floats, matrix: sp.csr_array, v: Floats, mu: float) -> Floats:
        table = (matrix.T @ v).reshape(phi.shape[1], -1)
        scores = np.einsum("nf,nf->n", phi, ones @ np.ascontiguousarray(table.T))
        return np.clip(self.keep * u - scores - mu, 0.0, self.problem.max_repeat)

    def _matrix(self) -> sp.csr_array:
        """The constraints, with the floors' E[y_r] as seen so far."""
        return self.system.with_concept_means(self.concept_counts / max(self.samples, 1.0)).matrix


def solve_stochastic(
    system: System,
    problem: Problem,
    s: Floats,
    y: sp.csr_array,
    names: tuple[tuple[str, ...], tuple[str, ...]],
    *,
    samples: int = 2_000_000,
    batch: int = 1024,
    seed: int = 0,
    **settings: Any,
) -> tuple[Floats, Floats, float]:
    """Run the paper's updates over samples drawn from cells, and settle the mean rate on the averaged prices.

    Args:
        system: constraints and cells.
        problem: what is asked.
        s: (n, m) attributes of the cells.
        y: (n, c) concepts of the cells.
        names: names of attributes and concepts.
        samples: how many samples to see.
        batch: samples an update.
        seed: of the draws.
        **settings: `step`, `decay`, `average_from` of `PaperUpdates`.

    Returns:
        Rates (n,), prices (J,) and mu; the mean rate is met exactly, the constraints as far as the prices go.
    """
    allowed = ("step", "decay", "average_from")
    for name in settings:
        if name not in allowed:
            raise UserError(f"method 'stochastic' has no option {name!r}: it takes samples, batch, seed, step, decay")
    updates = PaperUpdates(problem, *names, **settings)
    rng = np.random.default_rng(seed)
    edges = np.cumsum(system.p)
    for _ in range(max(samples // batch, 1)):
        rows = np.minimum(np.searchsorted(edges, rng.random(batch) * edges[-1]), edges.size - 1)
        updates.update(s[rows], y[rows])
    by_label = dict(zip(updates.system.labels(names[1]), updates.mean_v.tolist(), strict=True))
    v = np.array([by_label[label] for label in system.labels(names[1])])
    keep = updates.keep
    mu, q = settle_mean(system.u - system.scores(v) / keep, system.p, problem.max_repeat / keep, updates.mean_mu / keep)
    return q * keep, v, mu * keep
