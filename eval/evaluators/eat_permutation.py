"""Permutation p-values of association tests: exact where there are few partitions, sampled where there are many.

The test statistic is the sum of the associations s over X'. A p-value is the share of equal partitions (X', Y') of
X ∪ Y whose statistic is at least that of (X, Y): one-sided, ties count.

Sampling a million halves of 700 stimuli by shuffling would move 700 million numbers. Here a half is drawn as random
bits, 16 stimuli a word, and its sum is read from tables of the sums of all 65,536 subsets of each word. Random bits
pick K stimuli, not n; given K the subset is uniform, and it stays uniform when stimuli that are drawn uniformly are
taken out (or put in) until n are left.
"""

import math
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from balance.errors import UserError
from eval.stats import Floats

SEED = 0
WORD = 16
BLOCK = 32768
# Sums of the same numbers in another order differ by rounding; relative to the sum of their sizes.
TIE = 1e-12


def p_value(x: Floats, y: Floats, samples: int = 10_000, seed: int = SEED) -> float:
    """The one-sided p-value of an association test.

    Args:
        x: (n,) associations s of the stimuli in X.
        y: (n,) those of the stimuli in Y.
        samples: partitions to sample. Where there are no more than that in all, all are enumerated; else the p-value
            comes from `samples - 1` drawn ones and (X, Y) itself, as Steed and Caliskan (2021) do.
        seed: of the sampled partitions, which depend on nothing but the seed and n.

    Raises:
        UserError: X and Y differ in size, are empty, or hold a number that is not finite.
    """
    return p_values([(x, y)], samples, seed)[0]


def p_values(tests: Sequence[tuple[Floats, Floats]], samples: int = 10_000, seed: int = SEED) -> list[float]:
    """The p-values of many tests, as `p_value` gives them; tests of one size share the partitions that are drawn."""
    found = [math.nan] * len(tests)
    sizes: dict[int, list[int]] = {}
    for number, (x, y) in enumerate(tests):
        check_sides(x, y)
        sizes.setdefault(len(x), []).append(number)
    for n, numbers in sizes.items():
        # Sorted, so that the order of the stimuli makes no difference; centred, so that sums stay small.
        pooled = np.array([np.sort(np.concatenate(tests[number])) for number in numbers])
        centre = pooled.mean(axis=1)
        observed = np.array([tests[number][0].sum() for number in numbers]) - n * centre
        pooled -= centre[:, None]
        least = observed - TIE * (np.abs(pooled).sum(axis=1) + n * np.abs(centre))
        if math.comb(2 * n, n) <= samples:
            shares = [count_halves(row, edge) / math.comb(2 * n, n) for row, edge in zip(pooled, least, strict=True)]
        else:
            hits = np.ones(len(numbers), dtype=np.int64)
            for sums in half_sums(pooled, samples - 1, np.random.default_rng([seed, n])):
                hits += (sums >= least[:, None]).sum(axis=1)
            shares = (hits / samples).tolist()
        for number, share in zip(numbers, shares, strict=True):
            found[number] = float(share)
    return found


def check_sides(x: Floats, y: Floats) -> None:
    """Check that associations can be permuted between X and Y.

    Raises:
        UserError: see `p_value`.
    """
    if len(x) != len(y):
        raise UserError(
            f"An association test needs as many stimuli in X as in Y; it has {len(x)} and {len(y)}. "
            "Leave some out of the larger side."
        )
    if not len(x):
        raise UserError("An association test needs at least one stimulus in X and in Y; it has none.")
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise UserError("An association is not finite (NaN or infinity): an embedding is damaged, or is all zeros.")


def count_halves(values: Floats, least: float) -> int:
    """How many n-subsets of 2n values have a sum of at least `least`, exactly, by meeting in the middle.

    All subset sums of either half of the values are listed by size, and for each on the left the partners on the right
    that reach the sum are counted in their sorted list: 2^n steps, not C(2n, n).
    """
    n = len(values) // 2
    left, right = _sums_by_size(values[:n]), _sums_by_size(values[n:])
    total = 0
    for size in range(n + 1):
        partners = np.sort(right[n - size])
        total += int((len(partners) - np.searchsorted(partners, least - left[size], side="left")).sum())
    return total


def _sums_by_size(values: Floats) -> list[Floats]:
    sums, sizes = _subset_sums(values[None])[0], _sizes(len(values))
    return [sums[sizes == size] for size in range(len(values) + 1)]


def _subset_sums(values: Floats) -> Floats:
    """The sums of all subsets of each row (r, m): (r, 2^m), a subset at the number whose bits it is."""
    sums = np.zeros((len(values), 1))
    for column in values.T:
        sums = np.concatenate([sums, sums + column[:, None]], axis=1)
    return sums


def _sizes(bits: int) -> NDArray[np.uint8]:
    """How many bits are set in each number below 2^bits."""
    sizes = np.zeros(1, dtype=np.uint8)
    for _ in range(bits):
        sizes = np.concatenate([sizes, sizes + 1])
    return sizes.astype(np.uint8)


def half_sums(values: Floats, count: int, rng: np.random.Generator) -> Iterator[Floats]:
    """Sums over random n-subsets of 2n positions, independent and uniform.

    Args:
        values: (t, 2n) the values of t tests; all are summed over the same subsets.
        count: number of subsets.
        rng: source of the subsets.

    Yields:
        Blocks (t, b); b adds up to `count`.
    """
    tests, total = values.shape
    words = -(-total // WORD)
    padded = np.zeros((tests, words * WORD))
    padded[:, :total] = values
    tables = [_subset_sums(padded[:, w * WORD : (w + 1) * WORD]) for w in range(words)]
    last = np.uint16((1 << (total - (words - 1) * WORD)) - 1)
    for start in range(0, count, BLOCK):
        b = min(BLOCK, count - start)
        bits = rng.integers(0, 1 << WORD, size=(words, b), dtype=np.uint16)
        bits[-1] &= last
        _settle(bits, _bits_set(bits) - total // 2, total, rng)
        sums = np.zeros((tests, b))
        for column, table in zip(bits.astype(np.intp), tables, strict=True):
            for test in range(tests):
                sums[test] += table[test].take(column, mode="clip")  # none is outside; clip skips the check
        yield sums


def _bits_set(words: NDArray[np.uint16]) -> NDArray[np.int64]:
    """How many bits are set in each column of words, (w, b) to (b,)."""
    if hasattr(np, "bitwise_count"):
        return np.asarray(np.bitwise_count(words).sum(axis=0, dtype=np.int64))
    return np.asarray(_sizes(WORD)[words].sum(axis=0, dtype=np.int64))  # before NumPy 2


def _settle(bits: NDArray[np.uint16], surplus: NDArray[np.int64], total: int, rng: np.random.Generator) -> None:
    """Take uniformly drawn positions out of (or put them into) the subsets, in place, until each holds half of all.

    Args:
        bits: (words, b) the subsets, one a column.
        surplus: (b,) how many positions each has too many.
        total: number of positions.
        rng: source of the draws.
    """
    b, flat = bits.shape[1], bits.reshape(-1)
    active = np.flatnonzero(surplus)
    many = surplus[active]
    while len(active):
        place = rng.integers(0, total, size=len(active), dtype=np.int32)
        at = (place >> 4).astype(np.intp) * b + active
        bit = (place & 15).astype(np.uint16)
        word = flat.take(at)
        # A position that is on the right side already is drawn in vain.
        hit = ((word >> bit) & 1).astype(bool) == (many > 0)
        flat[at] = word ^ (hit.astype(np.uint16) << bit)
        many -= np.where(hit, np.sign(many), 0)
        left = many != 0
        active, many = active[left], many[left]
