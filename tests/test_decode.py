"""Decoding: crops lie inside the picture, whole crops equal a resize, and the fast path is close to the exact."""

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from balance.stream.decode import crop_box, decode_train
from balance.stream.samples import BadSample

UNIT = st.floats(0, 1, exclude_max=True)


def photo(width: int, height: int) -> bytes:
    """A smooth picture, such as JPEG was made for."""
    x, y = np.meshgrid(np.linspace(0, 3, width), np.linspace(0, 2, height))
    pixels = np.stack([np.sin(x + y), np.cos(2 * x), np.sin(3 * y)], axis=-1)
    buffer = io.BytesIO()
    Image.fromarray(((pixels + 1) * 127).astype(np.uint8)).save(buffer, "JPEG", quality=92)
    return buffer.getvalue()


@given(st.integers(1, 500), st.integers(1, 500), st.tuples(UNIT, UNIT, UNIT, UNIT))
def test_crops_lie_inside(width: int, height: int, u: tuple[float, ...]) -> None:
    left, top, right, bottom = crop_box(width, height, u, (0.5, 1.0), (0.75, 4 / 3))
    assert 0 <= left < right <= width + 1e-6
    assert 0 <= top < bottom <= height + 1e-6
    assert (right - left) * (bottom - top) <= width * height * (1 + 1e-9)


def test_the_whole_picture_equals_a_resize() -> None:
    image = photo(96, 96)
    whole = decode_train(image, 32, (0.5, 0.5, 0.5, 0.5), scale=(1, 1), ratio=(1, 1))
    expected = Image.open(io.BytesIO(image)).resize((32, 32), Image.Resampling.BICUBIC)
    assert whole.shape == (3, 32, 32)
    assert whole.dtype == np.uint8
    np.testing.assert_array_equal(whole, np.asarray(expected).transpose(2, 0, 1))


def test_fast_decoding_is_close_but_another_filter() -> None:
    image, u = photo(512, 384), (0.3, 0.6, 0.2, 0.9)
    exact = decode_train(image, 48, u).astype(float)
    fast = decode_train(image, 48, u, fast=True).astype(float)
    assert 0 < np.abs(exact - fast).mean() < 3


@pytest.mark.parametrize("damage", [b"", b"no picture", None])
def test_damaged_pictures_are_bad_samples(damage: bytes | None) -> None:
    image = photo(64, 64)[:400] if damage is None else damage
    with pytest.raises(BadSample, match="undecodable"):
        decode_train(image, 32, (0.5,) * 4)
