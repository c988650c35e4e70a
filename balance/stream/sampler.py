r"""Keep, drop or repeat a sample: a pure function of (seed, epoch, key) and the sample's rate.

A sample with rate q is used

    repeats_e = floor((e + 1) q + u) - floor(e q + u),    u = hash(seed, key) in [0, 1)

times in epoch e. In each epoch that is q on average over keys, because u is uniform; over E epochs it is E q to within
one use *for every single sample*, so that a rate of 0.3 means 3 of 10 epochs and not a coin thrown ten times.
There is no generator and so no state: any worker on any rank, before or after a resume, gives the same answer.
"""

import hashlib
import struct
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_UNIT = 2.0**-53


def hash_uniforms(seed: int, *parts: str | int, n: int = 1) -> tuple[float, ...]:
    """Give n reproducible numbers, uniform in [0, 1), for a tuple of names and numbers; n is at most 8."""
    text = "\x1f".join(map(str, parts)).encode("utf-8", "surrogateescape")
    digest = hashlib.blake2b(text, digest_size=8 * n, key=struct.pack("<q", seed)).digest()
    return tuple((word >> 11) * _UNIT for word in struct.unpack(f"<{n}Q", digest))


def key_uniforms(keys: Sequence[str], seed: int) -> NDArray[np.float64]:
    """One number per key, uniform in [0, 1), from a 64-bit hash of (seed, key); shape (n,)."""
    secret = struct.pack("<q", seed)
    digests = b"".join(
        hashlib.blake2b(key.encode("utf-8", "surrogateescape"), digest_size=8, key=secret).digest() for key in keys
    )
    return (np.frombuffer(digests, dtype="<u8") >> np.uint64(11)).astype(np.float64) * _UNIT


def repeats(q: NDArray[np.float64], keys: Sequence[str], seed: int, epoch: int) -> NDArray[np.int64]:
    """How often each sample is used in an epoch; shape (n,).

    Args:
        q: rates, shape (n,), not negative.
        keys: the samples' keys, n of them.
        seed: seed of the run.
        epoch: number of the pass over the data, from 0.
    """
    return uses_of(q, key_uniforms(keys, seed), epoch)


def uses_of(q: NDArray[np.float64], u: NDArray[np.float64], epoch: int) -> NDArray[np.int64]:
    """The same as `repeats`, from the keys' numbers u that `key_uniforms` gives; shape (n,)."""
    # The upper end of one epoch and the lower end of the next are the same expression, so no use is lost to rounding.
    return (np.floor((epoch + 1) * q + u) - np.floor(epoch * q + u)).astype(np.int64)
