"""From a shard's address to its samples as raw bytes, whatever the tar is packed with.

Members are grouped by WebDataset's rule: `a/b.jpg` and `a/b.json` belong to the sample with the key `a/b`, and stand
one after another. Packing is recognised by a file's first bytes, never by its name.
"""

import gzip
import lzma
import mmap
import os
import stat
import zlib
from bz2 import BZ2Decompressor
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import zstandard

from balance.errors import UserError
from balance.stream.damage import Damage, indexed_samples
from balance.stream.opening import Readable, is_local, open_shard
from balance.stream.tarwalk import CHUNK, CUT, EMPTY, MOST_MEMBER, DamagedTar, walk_stream

RawSample = dict[str, Any]
"""A sample as it lies in the shard: `__key__`, `__url__`, and for each extension the member's bytes.

`__other__`, where it is there, says for extensions that were passed over what they are (a hard link, ...).
"""

_MOST_WINDOW = 1 << 29  # bytes of memory that unpacking may take: a header can ask for gigabytes
_LONGEST_MAGIC = 10


class _Failed(Exception):
    """Reading the file itself failed, as opposed to unpacking it."""


def read_shard(url: str, on_bad: Callable[[Damage], None] | None = None) -> Iterator[RawSample]:
    """Read a tar shard member by member, one sample at a time, in the order of the file.

    The tar may be packed with gzip, bzip2, xz or zstandard. Of members of the same name the last counts, as in tar.

    Args:
        url: an address from `expand_shards`.
        on_bad: is told when the shard is damaged; without it the damage is an error.

    Yields:
        Raw samples, each known to be whole: of a truncated tar, the last that was begun is not among them.

    Raises:
        UserError: the shard can't be opened or read, or it is damaged and `on_bad` is None.
    """
    samples = 0
    try:
        with _opened(url) as source:
            try:
                for raw in _grouped(url, source.read):
                    samples += 1
                    yield raw
                source.finish()
            except DamagedTar as error:
                damage = _damage(url, source, samples, error)
                if on_bad is None:
                    raise UserError(f"The shard {url} is damaged: {damage.cause}.") from error
                on_bad(damage)
    except (OSError, _Failed) as error:
        cause = error.args[0] if isinstance(error, _Failed) else error
        raise UserError(f"The shard {url} can't be read: {getattr(cause, 'strerror', None) or cause}.") from error


def _damage(url: str, source: "_Source", samples: int, error: DamagedTar) -> Damage:
    indexed = indexed_samples(url) if is_local(url) else None
    whole = error.whole_length and not (error.zeros and source.packed)  # packed, zeros have no length
    cause = CUT if error.cause == EMPTY and source.packed else error.cause
    return Damage(cause, samples, source.tell() - error.zeros * whole, source.size, whole, indexed)


def _grouped(url: str, read: Callable[[int], bytes]) -> Iterator[RawSample]:
    """Samples from members that stand together; hidden files and WebDataset's own notes (`__*__`) are left out."""
    sample: RawSample | None = None
    current, held, example = None, 0, ""
    for name, data in walk_stream(read):
        slash = name.rfind("/") + 1
        dot = name.find(".", slash)
        if dot <= slash or (name.startswith("__") and name.partition("/")[0].endswith("__")):
            example = example or name
            continue
        extension = name[dot + 1 :].lower()
        if name[:dot] != current or sample is None:
            if sample is not None:
                yield sample
            current, held = name[:dot], 0
            sample = {"__key__": current, "__url__": url}
        if type(data) is bytes:
            held += len(data)
            if not extension.startswith("__"):
                # Keys that all begin alike make one sample of a shard: its names tell that, its bytes need no memory.
                sample[extension] = data if held <= MOST_MEMBER else b""
        else:
            sample.setdefault("__other__", {})[extension] = data
    if sample is not None:
        yield sample
    elif example:
        raise DamagedTar(f"no member is named by a key and an extension; the first is {example[:80]!r}")


@dataclass
class _Source:
    """An opened shard: its unpacked bytes, the place in the file, its length, and what to do at the end."""

    read: Callable[[int], bytes]
    tell: Callable[[], int]
    size: int | None
    packed: bool = False
    finish: Callable[[], None] = lambda: None


@contextmanager
def _opened(url: str) -> Iterator[_Source]:
    if not is_local(url):
        with open_shard(url) as stream:
            yield _streamed(stream, getattr(stream, "size", None))
        return
    with open(url, "rb") as file:
        status = os.fstat(file.fileno())
        size = status.st_size if stat.S_ISREG(status.st_mode) else None
        if not size or _packing(file.peek(_LONGEST_MAGIC)[:_LONGEST_MAGIC]):
            yield _streamed(file, size)
            return
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as view:
            yield _Source(view.read, view.tell, size)


def _streamed(stream: Readable, size: int | None) -> _Source:
    raw = _Raw(stream)
    packing = _packing(raw.first)

    def finish() -> None:
        while raw.read(CHUNK):  # a command that is not read to its end fails
            pass

    read = raw.read if packing is None else _checked(packing, _UNPACK[packing](raw).read)
    return _Source(read, lambda: raw.done, size, packing is not None, finish)


class _Raw:
    """A stream whose first bytes have been looked at, and whose failures are told from those of unpacking."""

    def __init__(self, stream: Readable) -> None:
        self._stream, self.first, self.done = stream, b"", 0
        while len(self.first) < _LONGEST_MAGIC and (more := self._read(_LONGEST_MAGIC - len(self.first))):
            self.first += more
        self._waiting = self.first

    def read(self, size: int) -> bytes:
        """The next bytes, as many as the stream gives."""
        if self._waiting:
            data, self._waiting = self._waiting[:size], self._waiting[size:]
        else:
            data = self._read(size)
        self.done += len(data)
        return data

    def _read(self, size: int) -> bytes:
        try:
            return self._stream.read(size)
        except OSError as error:
            raise _Failed(error) from error


class _Blocks:
    """Streams of bzip2 or xz, one after another as their tools write and read them."""

    def __init__(self, raw: _Raw, make: Callable[[], Any]) -> None:
        self._raw, self._make, self._now = raw, make, make()

    def read(self, size: int) -> bytes:
        """So many unpacked bytes or fewer; none at the end."""
        while True:
            if self._now.eof:
                rest = (self._now.unused_data or self._raw.read(1 << 16)).lstrip(b"\0")
                if not rest:
                    return b""
                self._now = self._make()
            else:
                rest = self._raw.read(1 << 16) if self._now.needs_input else b""
                if self._now.needs_input and not rest:
                    raise EOFError
            if data := self._now.decompress(rest, size):
                return data


_UNPACK: dict[str, Callable[[_Raw], Readable]] = {
    "gzip": lambda raw: gzip.GzipFile(fileobj=cast(Any, raw)),
    "bzip2": lambda raw: _Blocks(raw, BZ2Decompressor),
    "xz": lambda raw: _Blocks(raw, lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_MOST_WINDOW)),
    "zstd": lambda raw: zstandard.ZstdDecompressor(max_window_size=_MOST_WINDOW).stream_reader(
        cast(Any, raw), read_across_frames=True, closefd=False
    ),
}


def _packing(first: bytes) -> str | None:
    """What a file is packed with, by its first bytes."""
    if first.startswith(b"\x1f\x8b"):
        return "gzip"
    if first.startswith(b"BZh") and first[4:10] in (b"1AY&SY", b"\x17\x72\x45\x38\x50\x90"):  # a key may begin BZh
        return "bzip2"
    if first.startswith(b"\xfd7zXZ\0"):
        return "xz"
    # pzstd begins with a frame to be skipped.
    if first.startswith(b"\x28\xb5\x2f\xfd") or (first[1:4] == b"\x2a\x4d\x18" and 0x50 <= first[0] <= 0x5F):
        return "zstd"
    return None


def _checked(packing: str, read: Callable[[int], bytes]) -> Callable[[int], bytes]:
    """Unpacking whose failures are damage."""

    def checked(size: int) -> bytes:
        try:
            return read(size)
        except EOFError as error:
            raise DamagedTar(CUT) from error
        except (OSError, zlib.error, lzma.LZMAError, zstandard.ZstdError) as error:
            raise DamagedTar(f"damaged {packing} data", whole_length=True) from error

    return checked
