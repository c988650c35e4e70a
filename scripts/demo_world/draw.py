"""Pictures of the demo world: pictograms drawn at twice the size and halved, so that edges are smooth.

The marks are conventions of pictograms (long hair or a skirt for a woman, short hair or a beard for a man): a
*perceived* gender, and no more than that.
"""

import io
from dataclasses import dataclass
from random import Random

from PIL import Image, ImageDraw

from .objects import THINGS
from .people import Scene

SIZE = 64
SCALE = 2
SKIN = ("#f6d7b8", "#e8b98f", "#c98f5f", "#8d5a34", "#5c3820")
HAIR = ("#1d1512", "#4a2c17", "#8a5a2b", "#c9a24b", "#7a3318")
GREY = ("#d4d4d4", "#bdbdc4")
NEUTRAL = ("#8a8f98", "#a39b8b", "#6f7680", "#9aa58f", "#b3a6a0", "#5f6872")
BACKDROP = ("#d9dde2", "#e6e0d6", "#cfd8cf", "#dcd3dd", "#c9d3de")
COAT = ("#4c5058", "#5a544c", "#3f4650")

# setting: (wall or sky, floor)
SETTINGS = {
    "hospital": ("#dff3f2", "#a9cfcf"),
    "library": ("#cfa876", "#7a5230"),
    "kitchen": ("#fbe9c6", "#c99b73"),
    "field": ("#9ed4f5", "#c9b13c"),
    "fire station": ("#e7b3a7", "#8b8b8b"),
    "garage": ("#aab4bd", "#4f565c"),
    "building site": ("#c5dbe8", "#b98b5a"),
    "laboratory": ("#eef0fb", "#bcc3e6"),
    "street": ("#b9c7d6", "#6c6f75"),
    "garden": ("#bfe6f7", "#63b04f"),
}


@dataclass(frozen=True)
class Clothes:
    """What an occupation wears: the colours of top and legs, a hat, and a badge or apron."""

    top: str
    legs: str
    hat: str
    hat_colour: str
    mark: str
    mark_colour: str


CLOTHES = {
    "nurse": Clothes("#66c7d9", "#66c7d9", "cap", "#ffffff", "cross", "#e02020"),
    "librarian": Clothes("#6a3d9a", "#3b2a55", "none", "#000000", "glasses", "#000000"),
    "chef": Clothes("#ffffff", "#333333", "tall", "#ffffff", "buttons", "#333333"),
    "farmer": Clothes("#b5651d", "#2f5fa8", "brim", "#e8c663", "bib", "#2f5fa8"),
    "firefighter": Clothes("#5a1410", "#5a1410", "helmet", "#d51f1f", "stripes", "#ffe23b"),
    "mechanic": Clothes("#28519e", "#28519e", "peak", "#28519e", "stain", "#111111"),
    "builder": Clothes("#ff7a1a", "#4a5560", "helmet", "#ffd400", "stripes", "#f2f2f2"),
    "scientist": Clothes("#fafafa", "#fafafa", "none", "#000000", "goggles", "#3aa655"),
    "police officer": Clothes("#14213d", "#14213d", "peak", "#0b132b", "star", "#ffd700"),
    "gardener": Clothes("#8fc31f", "#6b4423", "brim", "#4f8a3c", "bib", "#3e7a35"),
}


class Pen:
    """A drawing surface whose unit is one pixel of the finished picture."""

    def __init__(self, background: str):
        self.image = Image.new("RGB", (SIZE * SCALE, SIZE * SCALE), background)
        self.canvas = ImageDraw.Draw(self.image)

    def box(self, x0: float, y0: float, x1: float, y1: float, colour: str) -> None:
        """A filled rectangle."""
        self.canvas.rectangle([x0 * SCALE, y0 * SCALE, x1 * SCALE, y1 * SCALE], colour)

    def oval(self, x0: float, y0: float, x1: float, y1: float, colour: str) -> None:
        """A filled ellipse inside a rectangle."""
        self.canvas.ellipse([x0 * SCALE, y0 * SCALE, x1 * SCALE, y1 * SCALE], colour)

    def poly(self, points: list[float], colour: str) -> None:
        """A filled polygon."""
        self.canvas.polygon([value * SCALE for value in points], colour)

    def line(self, points: list[float], colour: str, width: float) -> None:
        """A stroke."""
        self.canvas.line([value * SCALE for value in points], colour, max(1, round(width * SCALE)))

    def thing(self, name: str, x: float, y: float, size: float) -> None:
        """A thing of things.yaml in a square with its upper left corner at (x, y)."""
        for shape, points, colour, width in THINGS[name]:
            moved = [(x, y)[i % 2] + value * size for i, value in enumerate(points)]
            if shape == "line":
                self.line(moved, colour, width * size)
            elif shape == "poly":
                self.poly(moved, colour)
            elif shape == "box":
                self.box(moved[0], moved[1], moved[2], moved[3], colour)
            else:
                self.oval(moved[0], moved[1], moved[2], moved[3], colour)


def picture(scene: Scene, rng: Random) -> bytes:
    """The scene as a JPEG of 64 x 64 pixels."""
    if scene.setting is None:
        pen = Pen(rng.choice(BACKDROP))
    else:
        wall, floor = SETTINGS[scene.setting]
        pen = Pen(wall)
        pen.box(0, rng.uniform(38, 46), SIZE, SIZE, floor)
    furniture = scene.objects[1:] if scene.view == "working" else scene.objects
    _furnish(pen, furniture, scene.view == "scene", rng)
    if scene.view == "portrait":
        _portrait(pen, scene, rng)
    elif scene.view == "working":
        _worker(pen, scene, rng)
    elif scene.view == "hidden":
        _hidden(pen, rng)
    return _jpeg(pen.image, rng)


def _jpeg(image: Image.Image, rng: Random) -> bytes:
    light = rng.uniform(0.82, 1.12)
    image = image.reduce(SCALE).point([min(255, round(value * light)) for value in range(256)] * 3)
    if rng.random() < 0.5:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    data = io.BytesIO()
    image.save(data, "JPEG", quality=90)
    return data.getvalue()


def _furnish(pen: Pen, objects: list[str], alone: bool, rng: Random) -> None:
    sides = [rng.uniform(1, 5), rng.uniform(38, 42)] if rng.random() < 0.5 else [rng.uniform(38, 42), rng.uniform(1, 5)]
    for name, side in zip(objects, sides, strict=False):
        size = rng.uniform(21, 27) if alone else rng.uniform(17, 22)
        pen.thing(name, side, rng.uniform(22, 28), size)


def _hair_colour(scene: Scene, rng: Random) -> str:
    return rng.choice(GREY if scene.age_group == "old" else HAIR)


def _head(pen: Pen, scene: Scene, x: float, y: float, r: float, rng: Random) -> None:
    """A face with hair at (x, y): long hair for a woman, short hair and often a beard for a man."""
    skin, hair = rng.choice(SKIN), _hair_colour(scene, rng)
    if scene.gender == "woman":
        pen.oval(x - 1.35 * r, y - 1.25 * r, x + 1.35 * r, y + 0.9 * r, hair)
        pen.box(x - 1.35 * r, y - 0.2 * r, x + 1.35 * r, y + 1.75 * r, hair)
    else:
        pen.oval(x - 1.08 * r, y - 1.2 * r, x + 1.08 * r, y + 0.5 * r, hair)
    pen.box(x - 0.35 * r, y + 0.6 * r, x + 0.35 * r, y + 1.5 * r, skin)
    pen.oval(x - r, y - r, x + r, y + r, skin)
    if scene.gender == "man" and scene.age_group != "child" and rng.random() < 0.5:
        pen.canvas.chord([(x - r) * SCALE, (y - r) * SCALE, (x + r) * SCALE, (y + r) * SCALE], 10, 170, hair)
    pen.canvas.chord([(x - r) * SCALE, (y - r) * SCALE, (x + r) * SCALE, (y + r) * SCALE], 205, 335, hair)
    eye = 0.14 * r
    for side in (-0.4, 0.4):
        pen.oval(x + side * r - eye, y - 0.05 * r - eye, x + side * r + eye, y - 0.05 * r + eye, "#201510")
    if scene.gender == "woman":
        pen.oval(x - 0.3 * r, y + 0.42 * r, x + 0.3 * r, y + 0.66 * r, "#c23a4b")
    if scene.age_group == "old":
        pen.line([x - 0.6 * r, y - 0.35 * r, x - 0.15 * r, y - 0.35 * r], "#7a6a5a", 0.1 * r)
        pen.line([x + 0.15 * r, y - 0.35 * r, x + 0.6 * r, y - 0.35 * r], "#7a6a5a", 0.1 * r)


def _portrait(pen: Pen, scene: Scene, rng: Random) -> None:
    r = rng.uniform(11, 13) if scene.age_group == "child" else rng.uniform(13.5, 16)
    x, y = rng.uniform(28, 36), rng.uniform(24, 28) + (5 if scene.age_group == "child" else 0)
    _head(pen, scene, x, y, r, rng)
    cloth = rng.choice(NEUTRAL)
    pen.oval(x - 1.7 * r, y + 1.25 * r, x + 1.7 * r, y + 4.5 * r, cloth)


def _worker(pen: Pen, scene: Scene, rng: Random) -> None:
    look = CLOTHES[str(scene.occupation)]
    x, y, r = rng.uniform(28, 36), rng.uniform(17, 20), rng.uniform(6, 7.2)
    waist, feet = y + 4.4 * r, min(62.0, y + 6.6 * r)
    if scene.gender == "woman":
        pen.poly(
            [x - 0.9 * r, waist - r, x + 0.9 * r, waist - r, x + 1.9 * r, feet - 0.6 * r, x - 1.9 * r, feet - 0.6 * r],
            look.legs,
        )
        pen.line([x - 0.5 * r, feet - r, x - 0.5 * r, feet], "#3a2a20", 0.4 * r)
        pen.line([x + 0.5 * r, feet - r, x + 0.5 * r, feet], "#3a2a20", 0.4 * r)
    else:
        pen.box(x - 1.15 * r, waist - 0.6 * r, x - 0.15 * r, feet, look.legs)
        pen.box(x + 0.15 * r, waist - 0.6 * r, x + 1.15 * r, feet, look.legs)
    hand = x + 2.2 * r
    pen.line([x - 1.1 * r, y + 1.7 * r, x - 1.9 * r, y + 3.6 * r], look.top, 0.75 * r)
    pen.line([x + 1.1 * r, y + 1.7 * r, hand - 0.3 * r, y + 3.2 * r], look.top, 0.75 * r)
    _head(pen, scene, x, y, r, rng)
    pen.poly([x - 1.3 * r, y + 1.3 * r, x + 1.3 * r, y + 1.3 * r, x + 1.1 * r, waist, x - 1.1 * r, waist], look.top)
    _mark(pen, look, x, y, r)
    _hat(pen, look, x, y, r)
    size = rng.uniform(13, 16)
    pen.thing(scene.objects[0], hand - 0.4 * size, y + 3.2 * r - 0.6 * size, size)


def _mark(pen: Pen, look: Clothes, x: float, y: float, r: float) -> None:
    c, colour = y + 2.4 * r, look.mark_colour
    if look.mark == "cross":
        pen.box(x - 0.7 * r, c - 0.2 * r, x + 0.7 * r, c + 0.2 * r, colour)
        pen.box(x - 0.2 * r, c - 0.7 * r, x + 0.2 * r, c + 0.7 * r, colour)
    elif look.mark in ("glasses", "goggles"):
        for side in (-0.42, 0.42):
            pen.oval(x + (side - 0.36) * r, y - 0.42 * r, x + (side + 0.36) * r, y + 0.3 * r, colour)
            pen.oval(x + (side - 0.2) * r, y - 0.26 * r, x + (side + 0.2) * r, y + 0.14 * r, "#e8f6ff")
    elif look.mark == "buttons":
        for row in (1.8, 2.5, 3.2):
            pen.oval(x - 0.5 * r, y + row * r, x - 0.2 * r, y + (row + 0.3) * r, colour)
            pen.oval(x + 0.2 * r, y + row * r, x + 0.5 * r, y + (row + 0.3) * r, colour)
    elif look.mark == "bib":
        pen.box(x - 0.75 * r, c - 0.4 * r, x + 0.75 * r, y + 4.4 * r, colour)
    elif look.mark == "stripes":
        pen.box(x - 1.2 * r, c - 0.3 * r, x + 1.2 * r, c + 0.1 * r, colour)
        pen.box(x - 1.15 * r, c + 0.7 * r, x + 1.15 * r, c + 1.1 * r, colour)
    else:  # a star or a stain
        pen.oval(x + 0.2 * r, c - 0.7 * r, x + 0.9 * r, c, colour)


def _hat(pen: Pen, look: Clothes, x: float, y: float, r: float) -> None:
    top, colour = y - 0.7 * r, look.hat_colour
    if look.hat == "cap":
        pen.box(x - 0.8 * r, top - 0.7 * r, x + 0.8 * r, top, colour)
        pen.box(x - 0.15 * r, top - 0.6 * r, x + 0.15 * r, top - 0.1 * r, "#e02020")
    elif look.hat == "tall":
        pen.box(x - 0.8 * r, top - 1.2 * r, x + 0.8 * r, top, colour)
        pen.oval(x - 1.15 * r, top - 1.9 * r, x + 1.15 * r, top - 0.6 * r, colour)
    elif look.hat == "brim":
        pen.oval(x - 1.9 * r, top - 0.35 * r, x + 1.9 * r, top + 0.3 * r, colour)
        pen.oval(x - 0.9 * r, top - 0.95 * r, x + 0.9 * r, top + 0.3 * r, colour)
    elif look.hat == "helmet":
        pen.canvas.chord(
            [(x - 1.2 * r) * SCALE, (top - 0.9 * r) * SCALE, (x + 1.2 * r) * SCALE, (top + 1.1 * r) * SCALE],
            180,
            360,
            colour,
        )
        pen.box(x - 1.45 * r, top - 0.05 * r, x + 1.45 * r, top + 0.25 * r, colour)
    elif look.hat == "peak":
        pen.box(x - 1.05 * r, top - 0.6 * r, x + 1.05 * r, top + 0.1 * r, colour)
        pen.box(x - 0.3 * r, top, x + 1.5 * r, top + 0.3 * r, colour)


def _hidden(pen: Pen, rng: Random) -> None:
    """A figure from behind in a hooded coat: nothing of gender, age or occupation shows."""
    x, y, r = rng.uniform(27, 37), rng.uniform(17, 20), rng.uniform(6, 7.2)
    coat, feet = rng.choice(COAT), min(62.0, y + 6.6 * r)
    pen.oval(x - 1.2 * r, y - 1.2 * r, x + 1.2 * r, y + 1.4 * r, coat)
    pen.poly([x - 1.4 * r, y + 1.1 * r, x + 1.4 * r, y + 1.1 * r, x + 1.6 * r, feet - r, x - 1.6 * r, feet - r], coat)
    pen.line([x - 1.3 * r, y + 1.5 * r, x - 1.9 * r, y + 3.6 * r], coat, 0.8 * r)
    pen.line([x + 1.3 * r, y + 1.5 * r, x + 1.9 * r, y + 3.6 * r], coat, 0.8 * r)
    pen.line([x - 0.6 * r, feet - r, x - 0.6 * r, feet], "#222222", 0.5 * r)
    pen.line([x + 0.6 * r, feet - r, x + 0.6 * r, feet], "#222222", 0.5 * r)
    pen.line([x, y + 1.4 * r, x, feet - 1.2 * r], "#30343a", 0.12 * r)
