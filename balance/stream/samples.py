"""One image-text pair: raw bytes from a shard are checked and parsed, pictures still encoded.

Nothing is unpickled and no picture is decoded here, so that rejecting a sample costs only the reading of its bytes.
"""

import io
import json
from dataclasses import dataclass, field
from typing import Any

from PIL import Image

from balance.stream.reading import RawSample as RawSample
from balance.stream.reading import read_shard as read_shard

IMAGE_EXTENSIONS = ("jpg", "jpeg", "png", "webp", "ppm", "bmp")


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
    """

    key: str
    image: bytes
    captions: tuple[str, ...]
    meta: dict[str, Any] = field(default_factory=dict)


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
        BadSample: the bytes are no picture that Pillow knows.
    """
    try:
        with Image.open(io.BytesIO(image)):
            pass
    except Exception as error:  # Pillow raises many kinds, OSError, SyntaxError and ValueError among them
        raise BadSample("undecodable picture") from error


def parse_sample(raw: RawSample, need_caption: bool = True) -> Sample:
    """Check a raw sample and take it apart.

    Captions are, in this order of preference, the JSON list `captions`, the `.txt` member, the JSON string `caption`.

    Args:
        raw: from `read_shard`.
        need_caption: false for labelled pictures, such as faces with JSON labels, which have none.

    Raises:
        BadSample: no picture, no caption, a caption that is not UTF-8, or JSON that can't be read.
    """
    image = image_bytes(raw)
    meta: dict[str, Any] = {}
    if "json" in raw:
        try:
            meta = json.loads(raw["json"])
        except ValueError as error:  # UnicodeDecodeError and JSONDecodeError both
            raise BadSample("unreadable JSON") from error
        if not isinstance(meta, dict):
            raise BadSample("unreadable JSON")
    captions: list[Any] = []
    if isinstance(meta.get("captions"), list):
        captions = meta["captions"]
    elif "txt" in raw:
        try:
            captions = [raw["txt"].decode("utf-8")]
        except UnicodeDecodeError as error:
            raise BadSample("caption is not UTF-8") from error
    elif meta.get("caption") is not None:
        captions = [meta["caption"]]
    texts = tuple(text.strip() for text in captions if isinstance(text, str) and text.strip())
    if need_caption and not texts:
        raise BadSample("no caption")
    return Sample(key=raw["__key__"], image=image, captions=texts, meta=meta)
