"""Preparing pictures as transformers does, where open_clip does it otherwise."""

from typing import Any

from PIL import Image
from torchvision.transforms import CenterCrop


class FloorCrop:
    """The middle of a picture, its corner rounded down; torchvision rounds halves to the even number.

    Attributes:
        height: of the result, in pixels.
        width: of the result, in pixels.
    """

    def __init__(self, height: int, width: int) -> None:
        self.height, self.width = height, width

    def __call__(self, image: Image.Image) -> Image.Image:
        """A picture at least as large as the result, cut."""
        left, top = (image.width - self.width) // 2, (image.height - self.height) // 2
        return image.crop((left, top, left + self.width, top + self.height))


def cut_as_transformers(steps: list[Any]) -> list[Any]:
    """Steps of a transform, with the corner of the crop rounded down."""
    return [FloorCrop(*map(int, step.size)) if isinstance(step, CenterCrop) else step for step in steps]
