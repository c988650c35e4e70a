"""Shards of generated photos for benchmarks: pictures whose detail falls off as that of photographs does."""

import io
import json
import tarfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from balance.files import whole_file

PEOPLE = ("man", "woman", "boy", "girl", "person")
PLACES = ("a park", "a kitchen", "the street", "a hospital", "an office", "the beach", "a stadium", "a workshop")


def make_photo_shards(folder: Path, shards: int, samples: int, width: int = 512, height: int = 384) -> list[str]:
    """Write shards of generated photos with five captions each; those that are there already are kept.

    Args:
        folder: where to; made if need be.
        shards: number of shards.
        samples: pictures in each.
        width: of a picture, in pixels.
        height: of a picture, in pixels.

    Returns:
        The shards' paths.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"photos-{width}x{height}-{samples}-{number:05d}.tar" for number in range(shards)]
    for number, path in enumerate(paths):
        if not path.exists():
            with whole_file(path) as part, tarfile.open(part, "w") as tar:
                for index in range(number * samples, (number + 1) * samples):
                    _add(tar, index, width, height)
    return [str(path) for path in paths]


def _add(tar: tarfile.TarFile, index: int, width: int, height: int) -> None:
    rng = np.random.default_rng(index)
    buffer = io.BytesIO()
    Image.fromarray(photo(rng, width, height)).save(buffer, "JPEG", quality=88)
    captions = [f"a {rng.choice(PEOPLE)} in {rng.choice(PLACES)} with {index + n} things" for n in range(5)]
    members = {
        "jpg": buffer.getvalue(),
        "txt": captions[0].encode(),
        "json": json.dumps({"captions": captions}).encode(),
    }
    for extension, content in members.items():
        info = tarfile.TarInfo(f"{index:08d}.{extension}")
        info.size = len(content)
        tar.addfile(info, io.BytesIO(content))


def photo(rng: np.random.Generator, width: int, height: int) -> NDArray[np.uint8]:
    """One picture (height, width, 3): amplitudes fall as 1/f, as in photographs, with colours that go together."""
    fy, fx = np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None, :]
    amplitude = 1 / np.maximum(np.hypot(fy, fx), 1 / max(width, height))
    noise = rng.standard_normal((3, height, width // 2 + 1)) + 1j * rng.standard_normal((3, height, width // 2 + 1))
    planes = np.fft.irfft2(noise * amplitude, s=(height, width))
    planes = planes[:1] + 0.3 * planes  # brightness varies more than colour
    planes = (planes - planes.mean()) / planes.std()
    return np.clip(128 + 50 * planes, 0, 255).astype(np.uint8).transpose(1, 2, 0)
