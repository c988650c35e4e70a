"""Files that are complete or absent: written beside their place, and moved there once they are whole."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole_file(path: Path, shared: bool = False) -> Iterator[Path]:
    """Where to write what is to stand at a path: it goes there when the block ends, and nowhere if the block fails.

    Args:
        path: the file; its folder is made if it is not there.
        shared: whether several processes may write it at once, so that each needs a place of its own.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{os.getpid()}.part" if shared else f"{path.name}.part")
    try:
        yield part
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def write_whole(path: Path, content: str | bytes) -> Path:
    """Write a file, whole or not at all; the path."""
    with whole_file(path) as part:
        part.write_bytes(content.encode() if isinstance(content, str) else content)
    return path
