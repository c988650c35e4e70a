"""The solver's products on a GPU: the cells' sparse matrix in torch, with the vectors over cells kept beside it.

`balance.m4.dual` touches vectors over cells by the methods alone that numpy arrays and torch tensors share, so a system
whose operator and shares are on a device is solved there; prices, which are few, stay in numpy. Everything that is
reported is recomputed in numpy afterwards.
"""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from numpy.typing import NDArray

from balance.errors import UserError
from balance.m4.operator import PatternOperator
from balance.m4.system import System

Floats = NDArray[np.float64]


class DeviceOperator:
    """`PatternOperator` with its products on a torch device, in float64."""

    def __init__(self, base: PatternOperator, device: torch.device) -> None:
        self.base, self.device = base, device
        self.shape, self.size = base.shape, base.size
        self.pairs = _to_torch(base.pairs, device)
        # The transposed product scatters; a second matrix in row order turns it into the fast direction.
        self.pairs_T = _to_torch(sp.csr_array(base.pairs.T.tocsr()), device)

    def scores(self, table: Floats) -> torch.Tensor:
        """(F, N) prices to (n,) scores on the device."""
        return self.pairs @ torch.from_numpy((self.base.phi @ table).ravel()).to(self.device)

    def moments(self, weights: torch.Tensor) -> Floats:
        """(n,) weights on the device to (F, N) moments in numpy."""
        sums = (self.pairs_T @ weights).cpu().numpy()
        return np.asarray(self.base.phi.T @ sums.reshape(-1, self.shape[1]))

    def bias(self, matrix: sp.csr_array, rows: NDArray[np.int64] | None = None) -> sp.csr_array:
        """See `Operator.bias`; made on the CPU."""
        return self.base.bias(matrix, rows)


def _to_torch(matrix: sp.csr_array, device: torch.device) -> torch.Tensor:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
        return torch.sparse_csr_tensor(
            torch.from_numpy(matrix.indptr),
            torch.from_numpy(matrix.indices),
            torch.from_numpy(matrix.data),
            size=matrix.shape,
            check_invariants=False,
        ).to(device)


def move_system(system: System, device: str) -> System:
    """The same system with its cells on `device`.

    Raises:
        UserError: torch does not have the device, or the attributes are kept exactly (too many distinct values).
    """
    if not isinstance(system.operator, PatternOperator):
        raise UserError("exact probabilities are solved on the CPU: leave device out, or round them with bins")
    try:
        target = torch.device(device)
        p = torch.from_numpy(system.p).to(target)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"torch has no device {device!r} here: leave device out, or use 'cpu'") from error
    operator: Any = DeviceOperator(system.operator, target)
    shares: Any = p
    utility: Any = torch.from_numpy(system.u).to(target)
    return replace(system, operator=operator, p=shares, u=utility)
