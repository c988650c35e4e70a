"""Read a tar by its headers: several times faster than a general reader, and strict about damage.

The layout is POSIX's (ustar and pax) with GNU's long names; what is no regular file is passed over. Local files are
read over a memory map, all else as a stream.
"""

import mmap
import os
from collections.abc import Callable, Iterator

BLOCK = 512
CHUNK = 1 << 24  # a damaged header may give any length: ask for no more memory than the stream fills


class DamagedTar(ValueError):
    """The tar ends early, or holds what is no header where one must be."""


def walk_tar(path: str | os.PathLike[str]) -> Iterator[tuple[str, bytes]]:
    """The regular files of a plain (not compressed) tar on this machine, in order.

    Yields:
        Name and content.

    Raises:
        DamagedTar: as soon as the damage is met; all files before it have been yielded.
        OSError: the file can't be read.
    """
    with open(path, "rb") as file:
        if os.fstat(file.fileno()).st_size == 0:
            raise DamagedTar
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as view:
            yield from walk_stream(view.read)


def walk_stream(read: Callable[[int], bytes]) -> Iterator[tuple[str, bytes]]:
    """The regular files of a plain tar that can be read once, from front to end, in order.

    Args:
        read: gives so many of the next bytes, or fewer, and none at the end.

    Yields:
        Name and content.

    Raises:
        DamagedTar: as soon as the damage is met; all files before it have been yielded.
    """
    name, length = None, None  # of the next file, where a header before its own gave them
    while True:
        header = _exactly(read, BLOCK)
        if header[:1] == b"\0" and not header.strip(b"\0"):
            return  # the mark that ends an archive; without it the file was cut between two members
        if not _is_header(header):
            raise DamagedTar
        kind = header[156:157]
        n = _number(header[124:136]) if length is None else length
        data = _exactly(read, n)
        _exactly(read, -n % BLOCK)
        if kind == b"L":
            name = _text(data)
        elif kind == b"x":
            records = _pax(data)
            name = records.get("path", name)
            length = int(records["size"]) if "size" in records else None
        elif kind in (b"g", b"K"):
            continue
        else:
            if kind in (b"0", b"\0", b"7"):
                full = _name(header) if name is None else name
                if not (kind == b"\0" and full.endswith("/")):  # a folder, in the oldest layout
                    yield full, data
            name = length = None


def _exactly(read: Callable[[int], bytes], n: int) -> bytes:
    """So many bytes; streams may give fewer at a time."""
    if n < 0:
        raise DamagedTar
    data = read(min(n, CHUNK)) if n else b""
    if len(data) == n:
        return data
    parts, missing = [data], n - len(data)
    while missing:
        if not parts[-1]:
            raise DamagedTar
        parts.append(read(min(missing, CHUNK)))
        missing -= len(parts[-1])
    return b"".join(parts)


def _is_header(header: bytes) -> bool:
    if header[257:262] == b"ustar":
        return True
    try:
        return _number(header[148:156]) == sum(header[:148]) + 8 * 32 + sum(header[156:])
    except ValueError:
        return False


def _number(field: bytes) -> int:
    """Octal digits, or base 256 where the first bit is set (files of 8 GiB and more)."""
    if field[0] & 0x80:
        return int.from_bytes(bytes([field[0] & 0x7F]) + field[1:], "big")
    try:
        return int(field.strip(b" \0") or b"0", 8)
    except ValueError as error:
        raise DamagedTar from error


def _name(header: bytes) -> str:
    name = _text(header[:100])
    prefix = _text(header[345:500]) if header[257:263] == b"ustar\0" else ""  # GNU keeps other things there
    return f"{prefix}/{name}" if prefix else name


def _text(field: bytes) -> str:
    return field.partition(b"\0")[0].decode("utf-8", "surrogateescape")


def _pax(data: bytes) -> dict[str, str]:
    """The records of a pax header: length, a space, key=value, and the end of the line."""
    records, at = {}, 0
    while at < len(data) and data[at : at + 1] != b"\0":
        digits, _, _ = data[at : at + 24].partition(b" ")
        try:
            end = at + int(digits)
        except ValueError as error:
            raise DamagedTar from error
        key, _, value = data[at + len(digits) + 1 : end - 1].partition(b"=")
        if end <= at:
            raise DamagedTar
        records[_text(key)] = value.decode("utf-8", "surrogateescape")
        at = end
    return records
