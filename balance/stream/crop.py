"""The random crop of contrastive training, as a box chosen by four uniform numbers."""

import math

Box = tuple[float, float, float, float]


def crop_box(
    width: int, height: int, u: tuple[float, ...], scale: tuple[float, float], ratio: tuple[float, float]
) -> Box:
    """Choose the box (left, top, right, bottom) of a random crop from four uniform numbers.

    The crop's area is a share of the picture drawn uniformly from `scale`, its aspect ratio log-uniformly from
    `ratio`; a box that would not fit is shrunk until it does.
    """
    area = width * height * (scale[0] + u[0] * (scale[1] - scale[0]))
    aspect = math.exp(math.log(ratio[0]) + u[1] * (math.log(ratio[1]) - math.log(ratio[0])))
    w = min(float(width), math.sqrt(area * aspect))
    h = min(float(height), math.sqrt(area / aspect))
    left, top = u[2] * (width - w), u[3] * (height - h)
    return left, top, left + w, top + h
