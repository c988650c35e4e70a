"""Scaled JPEG decoding: the decoder itself shrinks a picture by a power of two before the crop is resized.

Twice to five times as fast as decoding all pixels (docs/benchmarks.md), and another filter: area averages instead of
bicubic, and crops rounded to whole pixels of the shrunk picture. For training only. With the optional packages of
`pip install 'counterbalance[fast]'` libjpeg-turbo and OpenCV do it; without them Pillow shrinks, and resizes as ever.
"""

from __future__ import annotations

import functools
from types import ModuleType
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from balance.common.images import check_size, jpeg_orientation, turned, upright
from balance.stream.crop import Box, crop_box

SHRINKS = (8, 4, 2)  # odd scales such as 5/8 take longer than decoding all pixels
PLAIN_COLOURS = ("YCbCr", "RGB", "Gray")  # Pillow knows what to do with CMYK as Adobe and others write it


class _Libraries(NamedTuple):
    simplejpeg: ModuleType
    cv2: ModuleType


@functools.cache
def _libraries() -> _Libraries | None:
    """The optional packages, or None where one of them is missing."""
    try:
        import cv2
        import simplejpeg
    except ImportError:
        return None
    cv2.setNumThreads(0)  # pictures are small, and threads do not survive the fork of a loader worker
    return _Libraries(simplejpeg, cv2)


def missing_packages() -> str | None:
    """A sentence for the user where the packages for scaled decoding are not installed, else None."""
    if _libraries() is not None:
        return None
    return (
        "data.fast_decode=true, but simplejpeg or OpenCV is not installed, so Pillow decodes at a reduced scale, with "
        "less gain; pip install simplejpeg opencv-python-headless."
    )


def decode_scaled(
    image: bytes, size: int, u: tuple[float, ...], scale: tuple[float, float], ratio: tuple[float, float]
) -> NDArray[np.uint8] | None:
    """Decode a JPEG at the smallest power-of-two scale that still holds the crop, and resize the crop.

    Returns:
        (3, size, size) uint8; or None where Pillow must decode: the file is no JPEG, its colours are CMYK, it is
        damaged (Pillow forgives some damage), or the packages are not installed.
    """
    libraries = _libraries()
    if libraries is None or image[:2] != b"\xff\xd8":
        return None
    try:
        height, width, colours, _ = libraries.simplejpeg.decode_jpeg_header(image)
        if colours not in PLAIN_COLOURS:
            return None
        check_size(width, height)
        orientation = jpeg_orientation(image)
        shown = upright(width, height, orientation)
        box = crop_box(*shown, u, scale, ratio)
        room = min(box[2] - box[0], box[3] - box[1]) / size
        shrink = next((k for k in SHRINKS if room >= k), 1)
        pixels = libraries.simplejpeg.decode_jpeg(image, min_height=-(-height // shrink), min_width=-(-width // shrink))
    except ValueError:
        return None
    if orientation != 1:
        pixels = np.ascontiguousarray(turned(pixels, orientation))
    crop = _cut(pixels, box, pixels.shape[1] / shown[0], pixels.shape[0] / shown[1])
    # Area averages only where they average: for enlarging they would repeat pixels.
    method = libraries.cv2.INTER_AREA if min(crop.shape[:2]) >= size else libraries.cv2.INTER_CUBIC
    resized = libraries.cv2.resize(crop, (size, size), interpolation=method)
    return np.ascontiguousarray(resized.transpose(2, 0, 1))


def _cut(pixels: NDArray[np.uint8], box: Box, x: float, y: float) -> NDArray[np.uint8]:
    """The pixels nearest to a box that was chosen at full scale; at least one."""
    height, width = pixels.shape[:2]
    left, top = min(round(box[0] * x), width - 1), min(round(box[1] * y), height - 1)
    right, bottom = max(round(box[2] * x), left + 1), max(round(box[3] * y), top + 1)
    return pixels[top:bottom, left:right]
