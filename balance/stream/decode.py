"""From an encoded picture to uint8 pixels, with the random crop that contrastive training uses.

Crop, resize and conversion are one Pillow call on a box, in uint8; normalisation is left to the device. Bicubic
filtering is that of open_clip's training transform. `fast` lets the JPEG decoder shrink by a power of two first: a
slightly different filter, for training only (see `balance.stream.scaled`).
"""

import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.ImageFile import ImageFile

from balance.common.images import BadImage, opened, to_rgb, upright_size
from balance.stream.crop import Box, crop_box
from balance.stream.samples import BadSample
from balance.stream.scaled import decode_scaled

RATIO = (0.75, 4 / 3)


def decode_train(
    image: bytes,
    size: int,
    u: tuple[float, ...],
    scale: tuple[float, float] = (0.9, 1.0),
    ratio: tuple[float, float] = RATIO,
    fast: bool = False,
) -> NDArray[np.uint8]:
    """Decode a picture and cut a random crop from it; shape (3, size, size), uint8.

    Args:
        image: the encoded picture.
        size: height and width of the result in pixels.
        u: four numbers in [0, 1) that decide the crop.
        scale: smallest and largest share of the area.
        ratio: smallest and largest width / height.
        fast: scaled JPEG decoding (another filter, faster).

    Raises:
        BadSample: the picture can't be decoded.
    """
    if fast:
        found = decode_scaled(image, size, u, scale, ratio)
        if found is not None:
            return found
    try:
        with opened(image) as picture:
            if fast:
                colours, box = _shrunk(picture, size, u, scale, ratio)
            else:
                colours = to_rgb(picture)
                box = crop_box(*colours.size, u, scale, ratio)
            pixels = colours.resize((size, size), Image.Resampling.BICUBIC, box=box)
    except BadImage as error:
        raise BadSample(error.cause) from error
    return np.ascontiguousarray(np.asarray(pixels).transpose(2, 0, 1))


def _shrunk(
    picture: ImageFile, size: int, u: tuple[float, ...], scale: tuple[float, float], ratio: tuple[float, float]
) -> tuple[Image.Image, Box]:
    """Ask the decoder for the smallest scale that still holds the crop; the picture, and the box at that scale."""
    width, height = upright_size(picture)
    box = crop_box(width, height, u, scale, ratio)
    shrink = max(size / (box[2] - box[0]), size / (box[3] - box[1]))
    if shrink < 1:
        picture.draft("RGB", (math.ceil(picture.width * shrink), math.ceil(picture.height * shrink)))
    colours = to_rgb(picture)
    x, y = colours.width / width, colours.height / height
    return colours, (box[0] * x, box[1] * y, min(box[2] * x, colours.width), min(box[3] * y, colours.height))
