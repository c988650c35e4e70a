"""Morphs of constructed faces: ends, middles and what is refused."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from balance.errors import UserError
from eval.evaluators.morph_series import find_groups
from eval.morph import morph, read_landmarks, step_shares
from eval.sets import load_set
from scripts.make_morphs import main

SIZE = 48


def face(eyes: list[tuple[int, int]], colour: int, ground: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """A plain ground with a disc of 3 px at each landmark."""
    y, x = np.mgrid[:SIZE, :SIZE]
    pixels = np.full((SIZE, SIZE, 3), ground, np.uint8)
    for cx, cy in eyes:
        pixels[(x - cx) ** 2 + (y - cy) ** 2 <= 9] = colour
    return pixels


FIRST = [(12, 16), (32, 16), (22, 36)]
LAST = [(16, 20), (36, 18), (26, 30)]


def centre(pixels: np.ndarray[Any, Any], near: tuple[float, float]) -> tuple[float, float]:
    """Centre of what is brighter than the ground, within 7 px of a place."""
    y, x = np.mgrid[:SIZE, :SIZE]
    weight = pixels[..., 0].astype(float) * ((x - near[0]) ** 2 + (y - near[1]) ** 2 <= 49)
    return float((weight * x).sum() / weight.sum()), float((weight * y).sum() / weight.sum())


def test_the_ends_are_the_faces_themselves() -> None:
    rng = np.random.default_rng(0)
    faces = [rng.integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8) for _ in range(2)]
    found = morph(*faces, np.array(FIRST, float), np.array(LAST, float), np.array([0.0, 1.0]))
    assert (found[0] == faces[0]).all()
    assert (found[1] == faces[1]).all()


@pytest.mark.parametrize("share", [0.25, 0.5, 0.8])
def test_landmarks_lie_between_in_proportion_and_colours_too(share: float) -> None:
    faces = [face(FIRST, 200, 0), face(LAST, 100, 0)]
    (found,) = morph(*faces, np.array(FIRST, float), np.array(LAST, float), np.array([share]))
    for a, b in zip(FIRST, LAST, strict=True):
        place = ((1 - share) * a[0] + share * b[0], (1 - share) * a[1] + share * b[1])
        assert centre(found, place) == pytest.approx(place, abs=0.5)
        x, y = round(place[0]), round(place[1])
        assert found[y, x, 0] == pytest.approx((1 - share) * 200 + share * 100, abs=1)


def test_shares_by_the_paper_and_by_its_released_code() -> None:
    assert step_shares(21)[[0, 10, 20]].tolist() == [0, 0.5, 1]
    assert step_shares(21, "released")[20] == pytest.approx(20 / 21)


def lay_out(folder: Path) -> list[str]:
    for name, points, colour in (("a", FIRST, 200), ("b", LAST, 100)):
        (folder / "faces").mkdir(parents=True, exist_ok=True)
        (folder / "points").mkdir(exist_ok=True)
        Image.fromarray(face(points, colour, 0)).save(folder / f"faces/{name}.png")
    (folder / "points/a.csv").write_text("x,y\n" + "".join(f"{x},{y}\n" for x, y in FIRST))
    (folder / "points/b.json").write_text(str([list(point) for point in LAST]))
    (folder / "pairs.csv").write_text("source,target,source_ethnicity,gender\na.png,b.png,black,female\n")
    names = {"pairs": "pairs.csv", "faces": "faces", "landmarks": "points", "out": "out"}
    return [f"{key}={folder / name}" for key, name in names.items()] + ["progress=false"]


def test_made_series_are_read_by_the_evaluator_and_not_made_twice(tmp_path: Path) -> None:
    arguments = lay_out(tmp_path)
    main([*arguments, "steps=5"])
    found = load_set("m", {"path": str(tmp_path / "out/morphs"), "labels": str(tmp_path / "out/morphs.csv")})
    config = {"group": ["source_ethnicity", "gender"], "minority": {"black": "Black"}}
    (group,) = find_groups("h", config, found)
    assert group.rows.shape == (1, 5)
    assert group.shares.tolist() == [1, 0.75, 0.5, 0.25, 0]
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.jpg")}
    main([*arguments, "steps=5"])
    assert times == {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.jpg")}


def test_what_does_not_fit_is_told(tmp_path: Path) -> None:
    black = np.zeros((SIZE, SIZE, 3), np.uint8)
    points = np.array(FIRST, float)
    shares = np.array([0.5])
    with pytest.raises(UserError, match="different sizes"):
        morph(black, black[:10], points, points, shares)
    with pytest.raises(UserError, match="3 and 2 landmarks"):
        morph(black, black, points, points[:2], shares)
    with pytest.raises(UserError, match="outside the picture"):
        morph(black, black, points, points + 40, shares)
    square = np.array([[10, 10], [40, 10], [40, 40], [10, 40.0]])
    with pytest.raises(UserError, match="without folding"):
        morph(black, black, square, square[[2, 3, 0, 1]], np.array([0.1]), "turned")
    with pytest.raises(UserError, match="neither a CSV file"):
        read_landmarks(_write(tmp_path / "p.csv", "a,b\n1,2\n"))
    arguments = lay_out(tmp_path)
    (tmp_path / "points/a.csv").unlink()
    with pytest.raises(UserError, match=r"points/a\.json is not there: the landmarks of a\.png"):
        main(arguments)
    with pytest.raises(UserError, match="at least two steps"):
        main([*arguments, "steps=1"])


def _write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path
