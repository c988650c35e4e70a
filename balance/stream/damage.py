"""What is lost with a damaged shard: how many samples, by an index, by the bytes left, or by the shards beside it."""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

PACKED = (".gz", ".bz2", ".xz", ".zst")
TAR_SUFFIXES = (".tar", *(".tar" + packed for packed in PACKED), ".tgz", ".tbz", ".tbz2", ".txz", ".tzst")
"""How the names of shards end in a folder."""
_MOST_INDEX = 1 << 20  # bytes of a file of statistics


def without_suffix(name: str) -> str:
    """A shard's name without `.tar`, `.tar.gz`, `.tgz`, ..."""
    lower = name.lower()
    suffix = max((end for end in TAR_SUFFIXES if lower.endswith(end)), key=len, default="")
    return name[: len(name) - len(suffix)]


@dataclass(frozen=True)
class Damage:
    """Where and why the reading of a shard ended before its end.

    Attributes:
        cause: in a few words.
        samples: samples read before the damage, usable or not.
        read: bytes of the file before the damage.
        size: bytes of the file; None where that is not known (downloads, commands).
        whole_length: whether the file seems to be as long as when it was whole.
        indexed: samples of the whole shard by a file beside it; None without one.
    """

    cause: str
    samples: int
    read: int
    size: int | None
    whole_length: bool
    indexed: int | None = None

    def lost(self, samples_each: float | None = None, bytes_each: float | None = None) -> int:
        """How many samples are lost, at least one: counted where there is an index, else an estimate.

        Args:
            samples_each: mean number of samples of the whole shards beside it; None if there are none.
            bytes_each: their bytes per sample; None if there are none, or their lengths are not known.
        """
        if self.indexed is not None:
            return max(1, self.indexed - self.samples)
        if self.whole_length and self.size is not None:
            each = self.read / self.samples if self.samples >= 10 else bytes_each
            if each:
                return max(1, round((self.size - self.read) / each))
        return 1 if samples_each is None else max(1, round(samples_each) - self.samples)

    def to_dict(self) -> dict[str, Any]:
        """As plain data, for an attribute file."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Damage":
        """From `to_dict`."""
        return cls(**data)


def indexed_samples(path: str) -> int | None:
    """How many samples a shard on this machine held when it was written, by the file that its writer left beside it.

    img2dataset leaves `00000_stats.json` beside `00000.tar`, with the count under `successes`; DALI's wds2idx leaves
    `00000.idx`, whose first line is a version and the count.
    """
    stem = without_suffix(path)
    for read, file in ((_successes, f"{stem}_stats.json"), (_first_line, f"{stem}.idx"), (_first_line, f"{path}.idx")):
        try:
            count = read(Path(file)) if os.path.isfile(file) else None
        except (OSError, ValueError, RecursionError):  # it is no such file, whatever its name
            continue
        if count is not None:
            return count
    return None


def _successes(file: Path) -> int | None:
    found = json.loads(file.read_bytes()) if file.stat().st_size < _MOST_INDEX else None
    count = found.get("successes") if isinstance(found, dict) else None
    return count if isinstance(count, int) and count >= 0 else None


def _first_line(file: Path) -> int | None:
    with open(file, "rb") as lines:
        version, _, count = lines.readline(100).strip().partition(b" ")
    return int(count) if version.startswith(b"v") and count.isdigit() else None
