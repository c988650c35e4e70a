"""Which samples a run holds out of its training data: decided by a hash of their keys alone.

So the split is the same for every seed, stage and process, under resume, and whatever is added to the data; and runs on
the same data are measured on the same images.
"""

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_WORDS = 2**64


def held_out(keys: Sequence[str], share: float) -> NDArray[np.bool_]:
    """Which samples are held out; shape (n,).

    Args:
        keys: n keys.
        share: of the samples that is held out, on average over keys.
    """
    if share <= 0:
        return np.zeros(len(keys), bool)
    digests = b"".join(
        hashlib.md5(key.encode("utf-8", "surrogateescape"), usedforsecurity=False).digest() for key in keys
    )
    return np.frombuffer(digests, "<u8")[1::2] < np.uint64(_threshold(share))


def sql_of_kept(share: float) -> str:
    """The same for DuckDB: what is true of a row, with the column `key`, that is not held out."""
    return "TRUE" if share <= 0 else f"md5_number_lower(key) >= {_threshold(share)}::UBIGINT"


def _threshold(share: float) -> int:
    return min(int(share * _WORDS), _WORDS - 1)
