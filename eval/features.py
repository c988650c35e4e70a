"""Features by the hash of what they are of: in memory as rows of one matrix, and on disk for the next run."""

import hashlib
import json
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from balance.common.images import IMAGES_VERSION
from balance.files import whole_file, write_whole
from models.factory import ModelBundle

PART_ROWS = 1024


def content_key(content: bytes) -> bytes:
    """The key of a picture's bytes or of a text's UTF-8."""
    return hashlib.blake2b(content, digest_size=16).digest()


class FeatureTable:
    """Features (d,) by key, float32 on the CPU, in one matrix that grows."""

    def __init__(self) -> None:
        self._rows: dict[bytes, int] = {}
        self._matrix = torch.empty(0, 0)

    def __len__(self) -> int:
        return len(self._rows)

    def missing(self, keys: Sequence[bytes]) -> list[int]:
        """Positions of the keys that are not here yet, each key once."""
        first: dict[bytes, int] = {}
        for position, key in enumerate(keys):
            if key not in self._rows:
                first.setdefault(key, position)
        return list(first.values())

    def add(self, keys: Sequence[bytes], features: torch.Tensor) -> None:
        """Add rows (n, d) for new keys."""
        start, end = len(self._rows), len(self._rows) + len(keys)
        if end > len(self._matrix):
            larger = torch.empty(max(end, 2 * len(self._matrix)), features.shape[1])
            if start:
                larger[:start] = self._matrix[:start]
            self._matrix = larger
        self._matrix[start:end] = features
        self._rows.update(zip(keys, range(start, end), strict=True))

    def get(self, keys: Sequence[bytes]) -> torch.Tensor:
        """The rows of some keys, (n, d)."""
        return self._matrix[torch.tensor([self._rows[key] for key in keys], dtype=torch.long)]


class FeatureStore:
    """A model's features on disk, in parts that are complete or absent.

    Args:
        folder: of all models; each has a folder of its own, named by the hash of its weights and preprocessing.
        bundle: the model.
    """

    def __init__(self, folder: Path, bundle: ModelBundle) -> None:
        self.folder = folder / model_key(bundle)
        self._new: dict[str, tuple[list[bytes], list[torch.Tensor]]] = {}

    def load(self, kind: str, table: FeatureTable) -> None:
        """Put all saved features of a kind (`images` or `texts`) into a table."""
        for path in sorted(self.folder.glob(f"{kind}-*.npz")):
            try:
                with open(path, "rb") as file, np.load(file, allow_pickle=False) as part:
                    keys = [bytes(key) for key in part["keys"]]
                    features = torch.from_numpy(part["features"])
            except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
                path.unlink(missing_ok=True)  # damaged from outside: computed anew
                continue
            new = table.missing(keys)
            if new:
                table.add([keys[row] for row in new], features[new])

    def add(self, kind: str, keys: Sequence[bytes], features: torch.Tensor) -> None:
        """Add features; written once enough have come together."""
        known, blocks = self._new.setdefault(kind, ([], []))
        known.extend(keys)
        blocks.append(features)
        if len(known) >= PART_ROWS:
            self._write(kind)

    def flush(self, truncated: Sequence[str]) -> None:
        """Write what has been added since, and which texts the tokenizer has cut."""
        for kind in list(self._new):
            self._write(kind)
        if truncated:
            write_whole(self.folder / "truncated.json", json.dumps(list(truncated)))

    def truncated(self) -> list[str]:
        """The texts that were cut when their features were computed."""
        path = self.folder / "truncated.json"
        return list(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else []

    def _write(self, kind: str) -> None:
        keys, blocks = self._new.pop(kind)
        if not keys:
            return
        path = self.folder / f"{kind}-{content_key(b''.join(keys)).hex()}.npz"
        with whole_file(path) as part, part.open("wb") as file:
            matrix = np.frombuffer(b"".join(keys), dtype=np.uint8).reshape(len(keys), -1)
            np.savez(file, keys=matrix, features=torch.cat(blocks).numpy())


def model_key(bundle: ModelBundle) -> str:
    """A hash of all that a model's features depend on: weights, architecture, preprocessing, length of texts."""
    digest = hashlib.blake2b(digest_size=12)
    facts: dict[str, Any] = {
        "images": IMAGES_VERSION,
        "config": bundle.config,
        "mean": bundle.mean,
        "std": bundle.std,
        "context": getattr(bundle.tokenizer, "context_length", None),
    }
    digest.update(json.dumps(facts, sort_keys=True, default=str).encode())
    for name, tensor in bundle.model.state_dict().items():
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
