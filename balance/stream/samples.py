"""One image-text pair: raw bytes from a shard are checked and parsed, pictures still encoded.

Nothing is unpickled and no picture is decoded here, so that rejecting a sample costs only the reading of its bytes.
"""

import json
from dataclasses import dataclass, field
from typing import Any

from balance.common.images import BadImage, opened, to_rgb
from balance.stream.captions import UnreadableText, read_captions
from balance.stream.reading import RawSample as RawSample
from balance.stream.reading import read_shard as read_shard

IMAGE_EXTENSIONS = ("jpg", "jpeg", "png", "webp", "avif", "gif", "tif", "tiff", "bmp", "ppm", "pgm")
"""Members that are images, whatever their case; of several in a sample the first of this order."""
SAMPLES_VERSION = 2
"""To be raised when samples are read by other rules: what was computed from samples by older rules is made anew."""
_DIGITS = 300


class BadSample(ValueError):
    """A sample that can't be used; `cause` is a short name to count by."""

    def __init__(self, cause: str) -> None:
        super().__init__(cause)
        self.cause = cause


@dataclass(frozen=True)
class Sample:
    """One image-text pair.

    Attributes:
        key: WebDataset's `__key__`.
        image: the encoded picture (JPEG, PNG, ...).
        captions: one or more captions, none of them empty.
        meta: the `.json` member, or an empty dict.
        shard: address of its shard, where that matters.
    """

    key: str
    image: bytes
    captions: tuple[str, ...]
    meta: dict[str, Any] = field(default_factory=dict)
    shard: str = ""


def image_bytes(raw: RawSample) -> bytes:
    """The encoded picture of a raw sample.

    Raises:
        BadSample: there is none.
    """
    for extension in IMAGE_EXTENSIONS:
        if extension in raw:
            return raw[extension]
    raise BadSample("no picture")


def check_image_header(image: bytes) -> None:
    """Read a picture's header, which costs microseconds and finds most files that are no pictures.

    Raises:
        BadSample: the bytes are no picture that Pillow knows, or one that is too large.
    """
    try:
        with opened(image):
            pass
    except BadImage as error:
        raise BadSample(error.cause) from error


def check_image(image: bytes) -> None:
    """Decode a picture and throw it away: a JPEG at an eighth of its size, which reads all of its bytes.

    Raises:
        BadSample: it can't be decoded.
    """
    try:
        with opened(image) as picture:
            picture.draft(None, (1, 1))
            to_rgb(picture)
    except BadImage as error:
        raise BadSample(error.cause) from error


def parse_sample(raw: RawSample, need_caption: bool = True) -> Sample:
    """Check a raw sample and take it apart; its captions by the rules of `balance.stream.captions`.

    Args:
        raw: from `read_shard`.
        need_caption: false for labelled pictures, such as faces with JSON labels, which have none.

    Raises:
        BadSample: no picture, no caption, a caption that is no text, or JSON that can't be read.
    """
    image = image_bytes(raw)
    meta = parse_json(raw["json"]) if "json" in raw else {}
    try:
        captions = read_captions(raw, meta)
    except UnreadableText as error:
        if need_caption:
            raise BadSample("caption is not UTF-8") from error
        captions = ()
    if need_caption and not captions:
        raise BadSample("no caption")
    return Sample(key=raw["__key__"], image=image, captions=captions, meta=meta)


def parse_json(content: bytes) -> dict[str, Any]:
    """The object of a `.json` member. NaN and Infinity, as img2dataset and pandas write what is missing, are null.

    Raises:
        BadSample: it is no JSON object, names a key twice, is nested too deep, or has a number of hundreds of digits.
    """
    try:
        encoding = "utf-8" if content[:1] == b"{" and content[1:2] != b"\0" else json.detect_encoding(content)
        found = _JSON.decode(content.decode(encoding, "surrogatepass"))
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError and JSONDecodeError are ValueErrors
        raise BadSample("unreadable JSON") from error
    if not isinstance(found, dict):
        raise BadSample("unreadable JSON")
    return found


def _each_key_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key twice")
    return found


def _number(digits: str) -> int:
    if len(digits) > _DIGITS:  # more than a float holds
        raise ValueError("a number too long")
    return int(digits)


_JSON = json.JSONDecoder(object_pairs_hook=_each_key_once, parse_int=_number, parse_constant=lambda name: None)
