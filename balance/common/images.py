"""From encoded bytes to an RGB image: one set of rules for training, labels, evaluation, stimuli and pages.

- Orientation: an image is turned as its EXIF (or XMP) says, as viewers show it.
- Depth: 8 bits a channel are taken as they are. 16-bit colours keep their high byte. 16-bit grey is scaled, 65,535 to
  white. 32-bit and float grey have no range of their own: white is the first of 1 (floats), 255 and 65,535 that no
  pixel exceeds; an image beyond these, or with negative pixels, is scaled from its darkest to its brightest.
- Transparency is blended onto white, whatever colour lies hidden under it.
- CMYK, palettes, grey and two-coloured images become RGB as Pillow converts them; colour profiles are ignored.
- Of an animation the first frame is taken.
- An image of more than `MOST_PIXELS` pixels, or longer than `MOST_OBLONG` times its width (or the reverse), is bad: it
  would take gigabytes to decode or to resize. So is one that is damaged or cut off.
"""

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile

IMAGES_VERSION = 2  # to be raised with the rules: features and labels of images decoded by older ones are made anew
MOST_PIXELS = 64_000_000
MOST_OBLONG = 100
UNDECODABLE = "undecodable picture"
TOO_LARGE = f"picture of more than {MOST_PIXELS // 1_000_000} million pixels"
TOO_OBLONG = f"picture over {MOST_OBLONG} times as long as wide"

_ORIENTATION = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SIDEWAYS = (5, 6, 7, 8)
_GREY16 = ("I;16", "I;16L", "I;16B", "I;16N")
_WIDE = ("I", "F")
_BAND = 1 << 22  # pixels scaled at a time

# What Pillow says of odd metadata helps nobody who trains on millions of images; sizes are checked here.
warnings.filterwarnings("ignore", module=r"PIL\.")
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


class BadImage(ValueError):
    """Bytes that are no usable image; `cause` is a short name to count by."""

    def __init__(self, cause: str) -> None:
        super().__init__(cause)
        self.cause = cause


def decode_rgb(encoded: bytes) -> Image.Image:
    """Decode an image, upright and RGB.

    Raises:
        BadImage: it is damaged, of no format that Pillow knows, or too large.
    """
    with opened(encoded) as image:
        return to_rgb(image)


@contextmanager
def opened(encoded: bytes) -> Iterator[ImageFile.ImageFile]:
    """An image whose header is read and whose size is checked; whatever goes wrong inside is a `BadImage`.

    Raises:
        BadImage: see `decode_rgb`.
    """
    try:
        with Image.open(io.BytesIO(encoded)) as image:
            check_size(*image.size)
            yield image
    except BadImage:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise BadImage(TOO_LARGE) from error
    except Exception as error:  # Pillow raises many kinds, OSError, SyntaxError and ValueError among them
        raise BadImage(UNDECODABLE) from error


def check_size(width: int, height: int) -> None:
    """Check that an image of this size can be decoded and resized.

    Raises:
        BadImage: it is too large or too oblong.
    """
    if width * height > MOST_PIXELS:
        raise BadImage(TOO_LARGE)
    if max(width, height) > MOST_OBLONG * min(width, height):
        raise BadImage(TOO_OBLONG)


def upright_size(image: Image.Image) -> tuple[int, int]:
    """Width and height of an image from `opened` as it will be shown."""
    if image.format == "TIFF":  # Pillow turns these itself, and says their size as shown
        return image.size
    return upright(*image.size, _orientation(image))


def upright(width: int, height: int, orientation: int) -> tuple[int, int]:
    """Width and height as shown, from those in the file."""
    return (height, width) if orientation in _SIDEWAYS else (width, height)


def to_rgb(image: Image.Image) -> Image.Image:
    """An image from `opened`, decoded, turned upright and converted to RGB; itself where nothing is to be done."""
    image.load()
    orientation = _orientation(image)  # after loading: PNG may have it at its end, and TIFF is turned by then
    if image.mode in _GREY16 or image.mode in _WIDE:
        image = _scaled_grey(image)
    elif image.has_transparency_data:
        image = _on_white(image)
    elif image.mode != "RGB":
        image = image.convert("RGB")
    return image.transpose(_TURNS[orientation]) if orientation in _TURNS else image


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 to 8; 1 where there is none, or what there is can't be read."""
    try:
        found = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # struct.error, SyntaxError, ValueError and more
        return 1
    return found if isinstance(found, int) and 1 <= found <= 8 else 1


def jpeg_orientation(encoded: bytes) -> int:
    """The orientation of a JPEG, 1 to 8; microseconds where no metadata names one.

    Raises:
        BadImage: the file is damaged.
    """
    if not _may_be_turned(encoded):
        return 1
    with opened(encoded) as image:
        return _orientation(image)


def turned(pixels: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """Pixels (h, w, c) as they lie in a file, turned upright; a view."""
    if orientation in _SIDEWAYS:
        pixels = pixels.transpose(1, 0, 2)
    rows = slice(None, None, -1 if orientation in (3, 4, 7, 8) else 1)
    columns = slice(None, None, -1 if orientation in (2, 3, 6, 7) else 1)
    return pixels[rows, columns]


def _may_be_turned(encoded: bytes) -> bool:
    """Look through the segments before the pixels for EXIF or XMP with the tag."""
    at = 2
    while at + 4 <= len(encoded) and encoded[at] == 0xFF:
        kind = encoded[at + 1]
        if kind == 0xDA:  # the pixels begin
            return False
        end = at + 2 + int.from_bytes(encoded[at + 2 : at + 4], "big")
        if kind == 0xE1:
            segment = encoded[at + 4 : end]
            if any(mark in segment for mark in (b"\x01\x12\x00", b"\x12\x01", b"tiff:Orientation")):
                return True
        at = end
    return True  # bytes between segments: Pillow knows


def _on_white(image: Image.Image) -> Image.Image:
    hidden = image.info.get("transparency")
    if image.mode == "RGB" and isinstance(hidden, tuple) and max(hidden) > 255:
        image.info["transparency"] = tuple(value >> 8 for value in hidden)  # of a 16-bit PNG, as its pixels
    if image.mode == "La":
        image = image.convert("LA")
    layer = image if image.mode == "RGBA" else image.convert("RGBA")  # convert would copy
    ground = Image.new("RGB", layer.size, "white")
    ground.paste(layer, mask=layer.getchannel("A"))
    return ground


def _scaled_grey(image: Image.Image) -> Image.Image:
    """Grey of more than 8 bits as RGB, a band of rows at a time, so that little memory is taken."""
    pixels = np.asarray(image)
    low, high = (0.0, 65535.0) if image.mode in _GREY16 else _range(pixels)
    hidden = image.info.get("transparency")
    grey = np.empty(pixels.shape, np.uint8)
    rows = max(1, _BAND // pixels.shape[1])
    for start in range(0, len(pixels), rows):
        band = pixels[start : start + rows].astype(np.float64)
        scaled = np.nan_to_num((band - low) / (high - low), nan=0.0, posinf=1.0, neginf=0.0)
        grey[start : start + rows] = np.rint(scaled * 255)
        if isinstance(hidden, int | float):
            grey[start : start + rows][band == hidden] = 255
    return Image.fromarray(grey).convert("RGB")


def _range(pixels: NDArray[Any]) -> tuple[float, float]:
    """The values that stand for black and white."""
    finite = np.isfinite(pixels)
    if not finite.any():
        raise BadImage(UNDECODABLE)
    start: Any = np.finfo(pixels.dtype) if pixels.dtype.kind == "f" else np.iinfo(pixels.dtype)
    low = float(np.min(pixels, where=finite, initial=start.max))
    high = float(np.max(pixels, where=finite, initial=start.min))
    if low >= 0:
        for white in (1.0, 255.0, 65535.0):
            if high <= white and not (white == 1 and pixels.dtype.kind != "f"):
                return 0.0, white
    return low, high if high > low else low + 1
