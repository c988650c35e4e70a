"""Decoding: crops lie inside the picture, whole crops equal a resize, and the fast path is close to the exact."""

import io
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from balance.stream import decode, scaled
from balance.stream.crop import crop_box
from balance.stream.decode import decode_train
from balance.stream.samples import BadSample, read_shard

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


def encode(picture: Image.Image, kind: str = "JPEG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def difference(image: bytes, size: int, u: tuple[float, ...]) -> float:
    """Mean absolute difference between the exact and the fast path, of 255."""
    exact, fast = (decode_train(image, size, u, fast=fast).astype(float) for fast in (False, True))
    return float(np.abs(exact - fast).mean())


def rotated() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned by a quarter; neither path turns, as open_clip does not
    return exif


JPEGS: dict[str, Callable[[Image.Image], bytes]] = {
    "plain": lambda picture: encode(picture, quality=92),
    "progressive": lambda picture: encode(picture, quality=92, progressive=True),
    "all colours at full size": lambda picture: encode(picture, quality=92, subsampling=0),
    "gray": lambda picture: encode(picture.convert("L")),
    "turned by EXIF": lambda picture: encode(picture, exif=rotated()),
}
OTHERS: dict[str, Callable[[Image.Image], bytes]] = {
    "CMYK": lambda picture: encode(picture.convert("CMYK"), quality=92),
    "PNG": lambda picture: encode(picture, "PNG"),
    "PNG with transparency": lambda picture: encode(picture.convert("RGBA"), "PNG"),
    "WebP": lambda picture: encode(picture, "WEBP"),
}


@pytest.mark.parametrize("kind", JPEGS)
@pytest.mark.parametrize("size", [24, 48, 96, 300])  # shrunk by 8, 4, 2 and not at all
def test_fast_decoding_is_close_but_another_filter(kind: str, size: int) -> None:
    image = JPEGS[kind](Image.open(io.BytesIO(photo(512, 384))))
    assert scaled.decode_scaled(image, size, (0.3, 0.6, 0.2, 0.9), (0.9, 1.0), decode.RATIO) is not None
    assert 0 < difference(image, size, (0.3, 0.6, 0.2, 0.9)) < 2


@pytest.mark.parametrize("kind", OTHERS)
def test_what_is_no_plain_jpeg_is_decoded_exactly(kind: str) -> None:
    image = OTHERS[kind](Image.open(io.BytesIO(photo(200, 160))))
    assert difference(image, 128, (0.3, 0.6, 0.2, 0.9)) == 0


def test_fast_decoding_of_real_photos(shared_data: Path) -> None:
    rng = np.random.default_rng(0)
    photos = [raw["jpg"] for raw in islice(read_shard(str(shared_data / "flickr8k" / "dev-00000.tar")), 60)]
    for size in (64, 112):
        found = [difference(image, size, tuple(rng.random(4))) for image in photos]
        assert 0.5 < float(np.mean(found)) < 4  # 2.3 to 2.8 of 255 measured


@given(st.integers(1, 90), st.integers(1, 90), st.tuples(UNIT, UNIT, UNIT, UNIT))
@settings(max_examples=40)
def test_fast_decoding_takes_any_shape(width: int, height: int, u: tuple[float, ...]) -> None:
    assert decode_train(photo(width, height), 16, u, (0.1, 1.0), fast=True).shape == (3, 16, 16)


def test_fast_decoding_without_its_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    assert scaled.missing_packages() is None
    monkeypatch.setattr(scaled, "_libraries", lambda: None)
    image, u = photo(512, 384), (0.3, 0.6, 0.2, 0.9)
    assert "pip install" in str(scaled.missing_packages())
    assert scaled.decode_scaled(image, 48, u, (0.9, 1.0), decode.RATIO) is None
    assert 0 < difference(image, 48, u) < 2  # Pillow's own scaled decoding


def test_what_pillow_forgives_is_not_lost() -> None:
    image = photo(256, 256)
    noisy = image[:-2] + bytes(40) + image[-2:]  # stray bytes before the end: libjpeg warns, Pillow goes on
    assert scaled.decode_scaled(noisy, 32, (0.5,) * 4, (0.9, 1.0), decode.RATIO) is None
    assert decode_train(noisy, 32, (0.5,) * 4, fast=True).shape == (3, 32, 32)


@pytest.mark.parametrize("damage", [b"", b"no picture", None])
@pytest.mark.parametrize("fast", [False, True])
def test_damaged_pictures_are_bad_samples(damage: bytes | None, fast: bool) -> None:
    image = photo(64, 64)[:400] if damage is None else damage
    with pytest.raises(BadSample, match="undecodable"):
        decode_train(image, 32, (0.5,) * 4, fast=fast)
