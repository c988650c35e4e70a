"""Pictures for a model: decoded and resized ahead of it by threads, and kept for the next model or epoch."""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image

from balance.common.images import BadImage, decode_rgb
from balance.errors import UserError

Resize = Callable[[Image.Image], Image.Image]
KEEP_BYTES = 1 << 30


class Picture(NamedTuple):
    """An encoded picture.

    Attributes:
        key: hash of its bytes.
        encoded: the file's bytes.
        name: set and key, for messages.
    """

    key: bytes
    encoded: bytes
    name: str


class Pixels:
    """Decodes pictures by batches, the next batch while the model computes.

    Args:
        limit: bytes of decoded pictures to keep for the next time they are asked for; 0 keeps none.
    """

    def __init__(self, limit: int = KEEP_BYTES) -> None:
        self.limit = limit
        self._transform = ""
        self._kept: dict[bytes, torch.Tensor] = {}
        self._bytes = 0

    def batches(self, resize: Resize, shares: Sequence[Sequence[Picture]]) -> Iterator[torch.Tensor | None]:
        """One uint8 batch (b, 3, h, w) for each list of pictures, None for an empty one.

        Raises:
            UserError: a picture can't be decoded.
        """
        if repr(resize) != self._transform:  # another model's transform: what was kept is of no use
            self._transform, self._kept, self._bytes = repr(resize), {}, 0
        with ThreadPoolExecutor(min(os.cpu_count() or 1, 8)) as pool:
            waiting: list[list[Future[torch.Tensor]]] = []
            try:
                for number in range(len(shares)):
                    for ahead in range(number + len(waiting), min(number + 2, len(shares))):
                        waiting.append([pool.submit(self._get, picture, resize) for picture in shares[ahead]])
                    pictures = [future.result() for future in waiting.pop(0)]
                    for picture, pixels in zip(shares[number], pictures, strict=True):
                        self._keep(picture.key, pixels)
                    yield torch.stack(pictures) if pictures else None
            finally:
                pool.shutdown(cancel_futures=True)

    def _get(self, picture: Picture, resize: Resize) -> torch.Tensor:
        kept = self._kept.get(picture.key)
        if kept is not None:
            return kept
        try:
            return decode(picture.encoded, resize)
        except BadImage as error:
            raise UserError(
                f"The picture {picture.name} can't be decoded ({error}); mend it or take it out of the set."
            ) from error

    def _keep(self, key: bytes, pixels: torch.Tensor) -> None:
        if key not in self._kept and self._bytes + pixels.numel() <= self.limit:
            self._kept[key] = pixels
            self._bytes += pixels.numel()


def decode(image: bytes, resize: Resize) -> torch.Tensor:
    """Decode one picture and apply the evaluation transform; (3, h, w) uint8."""
    pixels = np.array(resize(decode_rgb(image)))
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()
