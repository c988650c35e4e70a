"""From bytes to RGB: one set of rules, whoever decodes (training both ways, evaluation, labels, stimuli)."""

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image, ImageOps

from balance.common import images
from balance.common.images import BadImage, decode_rgb
from balance.stream.decode import decode_train
from balance.stream.samples import BadSample, check_image, check_image_header
from eval.pixels import decode

WHOLE: dict[str, Any] = {"scale": (1.0, 1.0), "ratio": (1.0, 1.0)}
Pixels = npt.NDArray[np.uint8]


def encode(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def smooth(width: int = 32, height: int = 32) -> Image.Image:
    x, y = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    return Image.fromarray(np.stack([x, y, 255 - x], axis=2).astype(np.uint8))


def ways(encoded: bytes, size: int = 32) -> dict[str, Pixels]:
    """The image at its own size, (size, size, 3), in each way that it is decoded."""
    return {
        "rgb": np.asarray(decode_rgb(encoded)),
        "training": decode_train(encoded, size, (0.5,) * 4, **WHOLE).transpose(1, 2, 0),
        "fast": decode_train(encoded, size, (0.5,) * 4, **WHOLE, fast=True).transpose(1, 2, 0),
        "evaluation": decode(encoded, lambda image: image).permute(1, 2, 0).numpy(),
    }


def same_in_all_ways(encoded: bytes, expected: Pixels, tolerance: int = 0) -> None:
    check_image_header(encoded)
    check_image(encoded)
    for name, found in ways(encoded).items():
        np.testing.assert_allclose(found.astype(int), expected, atol=tolerance, err_msg=name)


def grey(levels: npt.NDArray[Any]) -> Pixels:
    return np.repeat(levels[:, :, None], 3, axis=2).astype(np.uint8)


RAMP = np.tile(np.linspace(0, 1, 32), (32, 1))
DEPTHS: dict[str, tuple[npt.NDArray[Any], str]] = {
    "16-bit PNG": ((RAMP * 65535).astype(np.uint16), "PNG"),
    "16-bit TIFF": ((RAMP * 65535).astype(np.uint16), "TIFF"),
    "16-bit big-endian TIFF": ((RAMP * 65535).astype(">u2"), "TIFF"),
    "32-bit TIFF of 16 bits": ((RAMP * 65535).astype(np.int32), "TIFF"),
    "32-bit TIFF of 8 bits": ((RAMP * 255).astype(np.int32), "TIFF"),
    "32-bit TIFF of 31 bits": ((RAMP * (2**31 - 1)).astype(np.int32), "TIFF"),
    "32-bit TIFF with negatives": ((RAMP * 2000 - 1000).astype(np.int32), "TIFF"),
    "float TIFF up to 1": (RAMP.astype(np.float32), "TIFF"),
    "float TIFF up to 255": ((RAMP * 255).astype(np.float32), "TIFF"),
    "float TIFF up to 65,535": ((RAMP * 65535).astype(np.float32), "TIFF"),
    "float TIFF of temperatures": ((RAMP * 80 - 40).astype(np.float32), "TIFF"),
}


@pytest.mark.parametrize("kind", DEPTHS)
def test_grey_of_any_depth_is_scaled_and_not_clipped(kind: str) -> None:
    values, form = DEPTHS[kind]
    same_in_all_ways(encode(Image.fromarray(values), form), grey(np.rint(RAMP * 255)), tolerance=1)


def test_dark_16_bit_grey_stays_dark_and_infinities_are_black_and_white() -> None:
    dark = np.full((32, 32), 257 * 10, np.uint16)
    same_in_all_ways(encode(Image.fromarray(dark)), grey(np.full((32, 32), 10)))
    odd = RAMP.astype(np.float32)
    odd[0, 0], odd[0, 1], odd[0, 2] = np.nan, np.inf, -np.inf
    found = np.asarray(decode_rgb(encode(Image.fromarray(odd), "TIFF")))
    assert found[0, :3, 0].tolist() == [0, 255, 0]
    assert found[5, 16, 0] == pytest.approx(RAMP[5, 16] * 255, abs=1)


def half_hidden(mode: str) -> tuple[bytes, Pixels]:
    """Left half transparent over red, right half opaque green (grey for LA), and what must be seen."""
    rgba = np.zeros((32, 32, 4), np.uint8)
    rgba[:, :16] = (255, 0, 0, 0)
    rgba[:, 16:] = (10, 200, 10, 255)
    seen = np.full((32, 32, 3), 255, np.uint8)
    seen[:, 16:] = (10, 200, 10)
    if mode == "LA":
        flat = np.stack([np.where(rgba[..., 3] > 0, 90, 20), rgba[..., 3]], axis=2).astype(np.uint8)
        seen[:, 16:] = 90
        return encode(Image.fromarray(flat)), seen
    image = Image.fromarray(rgba[..., :3])
    if mode == "P":
        indices = Image.fromarray((rgba[..., 3] > 0).astype(np.uint8)).convert("P")
        indices.putpalette([255, 0, 0, 10, 200, 10])
        return encode(indices, transparency=0), seen
    if mode == "GIF":
        indices = Image.fromarray((rgba[..., 3] > 0).astype(np.uint8)).convert("P")
        indices.putpalette([255, 0, 0, 10, 200, 10])
        return encode(indices, "GIF", transparency=0), seen
    if mode == "RGB with tRNS":
        return encode(image, transparency=(255, 0, 0)), seen
    if mode == "L with tRNS":
        levels = np.where(rgba[..., 3] > 0, 90, 20).astype(np.uint8)
        seen[:, 16:] = 90
        return encode(Image.fromarray(levels), transparency=20), seen
    if mode == "16-bit with tRNS":
        wide = np.where(rgba[..., 3] > 0, 257 * 90, 257 * 20).astype(np.uint16)
        seen[:, 16:] = 90
        return encode(Image.fromarray(wide), transparency=257 * 20), seen
    form = {"RGBA": "PNG", "WebP": "WEBP", "TIFF": "TIFF"}[mode]
    return encode(Image.fromarray(rgba), form, **({"lossless": True} if form == "WEBP" else {})), seen


@pytest.mark.parametrize(
    "mode", ["RGBA", "LA", "P", "GIF", "RGB with tRNS", "L with tRNS", "16-bit with tRNS", "WebP", "TIFF"]
)
def test_transparency_is_blended_onto_white(mode: str) -> None:
    encoded, seen = half_hidden(mode)
    same_in_all_ways(encoded, seen)


def test_half_transparency_is_half_white_and_opaque_is_untouched() -> None:
    rgba = np.zeros((32, 32, 4), np.uint8)
    rgba[..., 3] = 128
    assert np.abs(np.asarray(decode_rgb(encode(Image.fromarray(rgba)))).astype(int) - 127).max() <= 1
    opaque = smooth().convert("RGBA")
    same_in_all_ways(encode(opaque), np.asarray(smooth()))


def exif(orientation: int) -> bytes:
    made = Image.Exif()
    made[0x0112] = orientation
    return made.tobytes()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_orientation_is_applied_in_all_ways(orientation: int, form: str) -> None:
    image = smooth(96, 64)
    image.paste((255, 255, 255), (0, 0, 40, 20))  # a corner, so that mirrored is not the same
    encoded = encode(image, form, exif=exif(orientation), **({"quality": 95} if form in ("JPEG", "WEBP") else {}))
    shown = ImageOps.exif_transpose(Image.open(io.BytesIO(encoded))).convert("RGB")
    assert (shown.width > shown.height) == (orientation < 5)
    np.testing.assert_array_equal(np.asarray(decode_rgb(encoded)), np.asarray(shown))
    expected = decode_train(encode(shown), 48, (0.3, 0.6, 0.2, 0.9)).astype(int)
    np.testing.assert_array_equal(decode_train(encoded, 48, (0.3, 0.6, 0.2, 0.9)), expected)
    fast = decode_train(encoded, 48, (0.3, 0.6, 0.2, 0.9), fast=True).astype(int)
    assert np.abs(fast - expected).mean() < 6
    np.testing.assert_array_equal(decode(encoded, lambda one: one).permute(1, 2, 0), np.asarray(shown))


@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_turned_jpegs_shrink_without_the_packages(monkeypatch: pytest.MonkeyPatch, orientation: int) -> None:
    from balance.stream import scaled

    encoded = encode(smooth(512, 384), "JPEG", exif=exif(orientation))
    with_packages = decode_train(encoded, 48, (0.3, 0.6, 0.2, 0.9), fast=True).astype(int)
    monkeypatch.setattr(scaled, "_libraries", lambda: None)
    assert np.abs(decode_train(encoded, 48, (0.3, 0.6, 0.2, 0.9), fast=True) - with_packages).mean() < 4


def test_odd_metadata_turns_nothing() -> None:
    broken = encode(smooth(), "JPEG", exif=b"Exif\0\0MM\0*\0\0\xff\xff\x01\x12\0")
    nine = encode(smooth(), "JPEG", exif=exif(9))
    for encoded in (broken, nine):
        assert decode_train(encoded, 32, (0.5,) * 4, **WHOLE, fast=True).shape == (3, 32, 32)
        assert np.asarray(decode_rgb(encoded))[0, 0, 2] > 200


def test_cmyk_palettes_bits_and_animations() -> None:
    base = smooth()
    same_in_all_ways(encode(base.quantize(64)), np.asarray(base.quantize(64).convert("RGB")))
    same_in_all_ways(encode(base.convert("1")), np.asarray(base.convert("1").convert("RGB")))
    frames = [Image.new("RGB", (32, 32), colour) for colour in ("red", "blue")]
    for form in ("GIF", "WEBP", "PNG"):
        options = {"lossless": True} if form == "WEBP" else {}
        moving = encode(frames[0], form, save_all=True, append_images=frames[1:], **options)
        same_in_all_ways(moving, np.asarray(frames[0]))
    cmyk = encode(Image.new("CMYK", (32, 32), (0, 255, 255, 0)), "JPEG", quality=95)
    same_in_all_ways(cmyk, np.asarray(Image.new("RGB", (32, 32), (255, 0, 0))), tolerance=4)


def png_header(width: int, height: int) -> bytes:
    """A PNG that says it is of this size, and has a few pixels of it."""
    tiny = bytearray(encode(smooth(8, 8)))
    tiny[16:24] = width.to_bytes(4, "big") + height.to_bytes(4, "big")
    import zlib

    tiny[29:33] = zlib.crc32(tiny[12:29]).to_bytes(4, "big")
    return bytes(tiny)


@pytest.mark.parametrize(
    ("encoded", "cause"),
    [
        (lambda: png_header(8001, 8000), images.TOO_LARGE),
        (lambda: png_header(20_000, 20_000), images.TOO_LARGE),
        (lambda: encode(smooth(1, 101)), images.TOO_OBLONG),
        (lambda: encode(smooth(203, 2), "JPEG"), images.TOO_OBLONG),
        (lambda: png_header(64, 64), images.UNDECODABLE),
        (lambda: encode(smooth(64, 64), "JPEG")[:500], images.UNDECODABLE),
        (lambda: encode(smooth(64, 64), "WEBP")[:-40], images.UNDECODABLE),
        (lambda: encode(Image.fromarray(np.full((4, 4), np.nan, np.float32)), "TIFF"), images.UNDECODABLE),
        (lambda: b"", images.UNDECODABLE),
        (lambda: b"<html>404</html>", images.UNDECODABLE),
    ],
)
def test_bad_images_have_a_cause_in_all_ways(encoded: Callable[[], bytes], cause: str) -> None:
    with pytest.raises(BadImage) as bad:
        decode_rgb(encoded())
    assert bad.value.cause == cause
    for fast in (False, True):
        with pytest.raises(BadSample) as sample:
            decode_train(encoded(), 32, (0.5,) * 4, fast=fast)
        assert sample.value.cause == cause
    with pytest.raises(BadSample) as checked:
        check_image(encoded())
    assert checked.value.cause == cause


def test_large_grey_is_scaled_by_bands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "_BAND", 100)
    values = (RAMP * 65535).astype(np.uint16)
    same_in_all_ways(encode(Image.fromarray(values)), grey(np.rint(RAMP * 255)), tolerance=1)
