"""The sampler: right on average, nearly exact over epochs, and a function of (seed, epoch, key) alone."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from balance.stream.sampler import hash_uniforms, key_uniforms, repeats

KEYS = [f"key-{i}" for i in range(20_000)]


def test_uniforms_look_uniform() -> None:
    u = key_uniforms(KEYS, seed=3)
    assert u.min() >= 0
    assert u.max() < 1
    counts = np.histogram(u, bins=20, range=(0, 1))[0]
    # Chi-square with 19 degrees of freedom exceeds 50 once in 10,000 times.
    assert ((counts - 1000) ** 2 / 1000).sum() < 50


def test_seeds_and_keys_are_independent() -> None:
    u, v = key_uniforms(KEYS, 0), key_uniforms(KEYS, 1)
    assert abs(np.corrcoef(u, v)[0, 1]) < 0.03
    assert len(set(hash_uniforms(0, "a", 1, n=4)) | set(hash_uniforms(0, "a", 2, n=4))) == 8
    assert hash_uniforms(0, "a", 12) != hash_uniforms(0, "a1", 2)


@given(st.floats(0, 3), st.integers(0, 50))
def test_each_epoch_uses_q_on_average(q: float, epoch: int) -> None:
    used = repeats(np.full(2000, q), KEYS[:2000], 0, epoch)
    assert abs(used.mean() - q) < 5 * np.sqrt(0.25 / 2000) + 1e-12
    assert set(np.unique(used)) <= {np.floor(q), np.floor(q) + 1}


@given(st.lists(st.floats(0, 2.5), min_size=1, max_size=20), st.integers(1, 30))
def test_over_epochs_every_sample_is_used_q_times_to_within_one(q: list[float], epochs: int) -> None:
    rates, keys = np.array(q), KEYS[: len(q)]
    total = sum(repeats(rates, keys, 5, epoch) for epoch in range(epochs))
    assert (np.abs(total - epochs * rates) < 1 + 1e-6).all()


def test_a_sample_is_judged_by_its_key_alone() -> None:
    rates = np.random.default_rng(0).random(1000)
    order = np.random.default_rng(1).permutation(1000)
    straight = repeats(rates, KEYS[:1000], 9, 4)
    mixed = repeats(rates[order], [KEYS[i] for i in order], 9, 4)
    assert (straight[order] == mixed).all()


def test_epochs_differ_and_whole_rates_are_exact() -> None:
    rates = np.full(1000, 0.5)
    assert (repeats(rates, KEYS[:1000], 0, 0) != repeats(rates, KEYS[:1000], 0, 1)).all()
    for q in (0.0, 1.0, 2.0):
        assert (repeats(np.full(1000, q), KEYS[:1000], 0, 7) == q).all()
