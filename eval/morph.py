"""A face between two faces: shape and colour blended by landmarks that both carry.

The landmarks of both faces, with points on the frame, are cut into Delaunay triangles of their mean shape; every
triangle of a blended shape takes its pixels from the same triangle of either face (piecewise affine), and colours are
blended by the same share. Interpolation is linear. Triangulation by scipy, look-up of pixels by matplotlib.
"""

import csv
import json
from pathlib import Path

import numpy as np
from matplotlib.tri import LinearTriInterpolator, Triangulation
from numpy.typing import NDArray
from scipy.ndimage import map_coordinates
from scipy.spatial import Delaunay

from balance.errors import UserError

# Landmarks that lie close together, as on eyelids, may change places without harm; more is an error of the landmarks.
MOST_FOLDED = 0.005  # of the picture's area

Floats = NDArray[np.float64]
Pixels = NDArray[np.uint8]


def morph(
    source: Pixels, target: Pixels, source_points: Floats, target_points: Floats, shares: Floats, name: str = "a series"
) -> list[Pixels]:
    """Faces between two faces.

    Args:
        source: (h, w, 3) picture at share 0.
        target: (h, w, 3) picture at share 1, of the same size.
        source_points: (p, 2) landmarks x, y in pixels.
        target_points: (p, 2) the same landmarks in the target.
        shares: (n,) how much of the target, from 0 to 1.
        name: what to call the pair in messages.

    Returns:
        n pictures (h, w, 3); the first face itself at share 0 and the second at 1.

    Raises:
        UserError: sizes or landmarks don't match, a landmark lies outside its picture, or the faces are so different
            that triangles between them fold over.
    """
    if source.shape != target.shape:
        raise UserError(f"{name}: the pictures have different sizes, {source.shape[:2]} and {target.shape[:2]} pixels.")
    if source_points.shape != target_points.shape or len(source_points) < 3:
        raise UserError(
            f"{name}: the faces have {len(source_points)} and {len(target_points)} landmarks; they need the same "
            "three or more."
        )
    height, width = source.shape[:2]
    for points in (source_points, target_points):
        if (points < 0).any() or (points > [width - 1, height - 1]).any() or not np.isfinite(points).all():
            raise UserError(f"{name}: a landmark lies outside the picture of {width} x {height} pixels.")
    first, last = (_with_frame(points, height, width) for points in (source_points, target_points))
    # One set of triangles for all shares; that of the mean shape fits both ends best.
    triangles = Delaunay((first + last) / 2).simplices
    folding = UserError(
        f"{name}: the landmarks of the two faces can't be led into each other without folding; check their order."
    )
    if max(_folded(points, triangles) for points in (first, last)) > MOST_FOLDED * height * width:
        raise folding
    try:
        return [_blend(source, target, first, last, triangles, float(share)) for share in shares]
    except RuntimeError as error:  # matplotlib finds no place for a pixel in triangles that overlap
        raise folding from error


def _folded(points: Floats, triangles: NDArray[np.int32]) -> float:
    """The area of triangles that are turned over, in square pixels; scipy's run anticlockwise."""
    a, b, c = (points[triangles[:, corner]] for corner in range(3))
    areas = ((b - a)[:, 0] * (c - a)[:, 1] - (b - a)[:, 1] * (c - a)[:, 0]) / 2
    return float(-areas[areas < 0].sum())


def _blend(
    source: Pixels, target: Pixels, first: Floats, last: Floats, triangles: NDArray[np.int32], share: float
) -> Pixels:
    shape = (1 - share) * first + share * last
    warped = [_warp(picture, points, shape, triangles) for picture, points in ((source, first), (target, last))]
    return np.rint((1 - share) * warped[0] + share * warped[1]).clip(0, 255).astype(np.uint8)


def _warp(picture: Pixels, points: Floats, shape: Floats, triangles: NDArray[np.int32]) -> Floats:
    """The picture with its points moved to a shape; (h, w, 3)."""
    height, width = picture.shape[:2]
    x, y = np.meshgrid(np.arange(width, dtype=np.float64), np.arange(height, dtype=np.float64))
    mesh = Triangulation(shape[:, 0], shape[:, 1], triangles)
    finder = mesh.get_trifinder()
    at = [LinearTriInterpolator(mesh, points[:, axis], finder)(x, y).filled(np.nan) for axis in (1, 0)]
    # A pixel on the frame that falls between two triangles by rounding stays where it is.
    rows, columns = (np.where(np.isnan(found), own, found) for found, own in zip(at, (y, x), strict=True))
    found: Floats = np.stack(
        [
            map_coordinates(picture[..., c].astype(np.float64), [rows, columns], order=1, mode="nearest")
            for c in range(3)
        ],
        axis=2,
    )
    return found


def _with_frame(points: Floats, height: int, width: int) -> Floats:
    """Corners and middles of the sides added, so that the triangles cover the picture."""
    right, bottom = width - 1.0, height - 1.0
    xs, ys = (0.0, right / 2, right), (0.0, bottom / 2, bottom)
    frame = [(x, y) for x in xs for y in ys if (x, y) != (right / 2, bottom / 2)]
    return np.concatenate([points, np.array(frame)])


def step_shares(steps: int, kind: str = "paper") -> Floats:
    """Shares of the target at each step: i / (n - 1) by the paper, i / n as the paper's released code has it.

    Raises:
        UserError: fewer than two steps, or another kind.
    """
    if steps < 2:
        raise UserError(f"A series needs at least two steps, not {steps}.")
    if kind not in ("paper", "released"):
        raise UserError(f"steps_by={kind} is not one of paper, released.")
    return np.arange(steps) / (steps - 1 if kind == "paper" else steps)


def read_landmarks(path: Path) -> Floats:
    """Landmarks of a face: a CSV file with columns x and y, or a JSON list of [x, y]; (p, 2) in pixels.

    Raises:
        UserError: the file is not there or holds something else.
    """
    if not path.is_file():
        raise UserError(f"{path} is not there; every face needs a file of landmarks with its name.")
    try:
        if path.suffix == ".json":
            points = np.array(json.loads(path.read_text(encoding="utf-8")), dtype=np.float64)
        else:
            with open(path, encoding="utf-8-sig", newline="") as file:
                points = np.array([[float(row["x"]), float(row["y"])] for row in csv.DictReader(file)])
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} is neither a CSV file with columns x and y nor a JSON list of [x, y].") from error
    if points.ndim != 2 or points.shape[1] != 2:
        raise UserError(f"{path} holds no landmarks x, y.")
    return points
