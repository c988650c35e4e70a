"""One image-text pair: read from a tar shard as raw bytes, then checked and parsed, pictures still encoded.

Members are grouped by WebDataset's rule: `a/b.jpg` and `a/b.json` belong to the sample with the key `a/b`.
Nothing is unpickled and no picture is decoded here, so that rejecting a sample costs only the reading of its bytes.
"""

import io
import json
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, cast

from PIL import Image
from webdataset.tariterators import group_by_keys, tar_file_iterator

from balance.errors import UserError
from balance.stream.opening import Readable, is_local, open_shard
from balance.stream.tarwalk import DamagedTar, walk_stream, walk_tar

TRUNCATED = "truncated or damaged tar"
IMAGE_EXTENSIONS = ("jpg", "jpeg", "png", "webp", "ppm", "bmp")

RawSample = dict[str, Any]
"""A sample as it lies in the shard: `__key__`, `__url__`, and for each extension the member's bytes."""


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


def read_shard(url: str, on_bad: Callable[[str], None] | None = None) -> Iterator[RawSample]:
    """Read a tar shard member by member, one sample at a time, in the order of the file.

    Args:
        url: an address from `expand_shards`.
        on_bad: is told the cause when the shard ends early or is no tar; without it the error is raised.

    Yields:
        Raw samples, each known to be whole: of a truncated tar, the last that was begun is not among them.

    Raises:
        BadSample: the shard ends early or is no tar, and `on_bad` is None.
        UserError: the shard can't be opened or read at all.
    """
    try:
        if is_local(url) and url.endswith(".tar"):
            yield from group_by_keys(_members(url, walk_tar(url)))
            return
        with open_shard(url) as opened:
            stream = _Stream(opened)
            if stream.compressed:
                yield from group_by_keys(_unpacked(url, stream))
            else:
                yield from group_by_keys(_members(url, walk_stream(stream.read)))
            while stream.read(1 << 16):  # a command that is not read to its end fails
                pass
    except (tarfile.TarError, EOFError, DamagedTar) as error:
        if on_bad is None:
            raise BadSample(TRUNCATED) from error
        on_bad(TRUNCATED)
    except OSError as error:
        raise UserError(f"The shard {url} can't be read: {error.strerror or error}.") from error


def _members(url: str, files: Iterator[tuple[str, bytes]]) -> Iterator[dict[str, Any]]:
    """The files of a tar in the form that WebDataset groups."""
    for name, data in files:
        if "/" in name or not (name.startswith("__") and name.endswith("__")):  # WebDataset's own notes
            yield {"fname": name, "data": data, "__url__": url}


def _unpacked(url: str, stream: "_Stream") -> Iterator[dict[str, Any]]:
    """The files of a compressed tar: WebDataset unpacks it, and the packing tells a cut from an end."""
    return ({**member, "__url__": url} for member in tar_file_iterator(cast(Any, stream)))


class _Stream:
    """A stream whose first bytes have been looked at."""

    def __init__(self, stream: Readable) -> None:
        self.stream, self.first = stream, b""
        while len(self.first) < 6 and (more := stream.read(6 - len(self.first))):
            self.first += more
        self.compressed = self.first.startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ"))

    def read(self, size: int) -> bytes:
        """The next bytes, as many as the stream gives."""
        if not self.first:
            return self.stream.read(size)
        data, self.first = self.first[:size], self.first[size:]
        return data + self.stream.read(size - len(data)) if len(data) < size else data


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
