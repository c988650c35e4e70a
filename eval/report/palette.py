"""The colours of all pages and charts: one meaning each, in a light and in a dark form.

Charts are drawn in the light form, so that a file by itself looks right anywhere. On a page `themed` puts a CSS
variable in the place of each colour, and `css` says what the variables are by day and by night. Colours never stand
alone: series differ by marker and dash, verdicts by words and signs. The colours of series were chosen for their
distances as people with protanopia, deuteranopia and tritanopia see them.
"""

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Colour:
    """One colour of the pages.

    Attributes:
        light: `#rrggbb` on white.
        dark: `#rrggbb` on the dark background.
        meaning: what it stands for, on every page.
    """

    light: str
    dark: str
    meaning: str


PALETTE = {
    "page": Colour("#ffffff", "#16181c", "background"),
    "panel": Colour("#f4f4f2", "#212429", "background of notes and of code"),
    "ink": Colour("#1b1b1b", "#e8e6e3", "text, links, axes"),
    "soft": Colour("#575757", "#aeb1b5", "remarks, and lines to read values against: zero, a target, a plan"),
    "line": Colour("#d9d9d9", "#3d4147", "borders and grids"),
    "this": Colour("#0072b2", "#4aa8ea", "what the page is about: the run, the model, the data after balancing"),
    "other": Colour("#d55e00", "#ff8a47", "what it is held against: before training, before balancing, the other run"),
    "kind1": Colour("#12a37c", "#63d6ae", "further runs, or groups of one chart, by their legend"),
    "kind2": Colour("#7d1d63", "#d05fae", "as kind1"),
    "kind3": Colour("#4a4a00", "#e6e27a", "as kind1"),
    "kind4": Colour("#b05f86", "#ecc3ea", "as kind1"),
    "over": Colour("#5e3c99", "#b39ae6", "more than wanted, in a heat map"),
    "under": Colour("#8a7400", "#d0b53c", "less than wanted, in a heat map"),
}  # fmt: skip
THIS, OTHER = PALETTE["this"].light, PALETTE["other"].light
KINDS = tuple(colour.light for name, colour in PALETTE.items() if name.startswith("kind"))
RUNS = (THIS, OTHER, *KINDS)
_BY_HEX = {colour.light: name for name, colour in PALETTE.items()}
_HEX = re.compile(r"(?<![\w&-])(?:" + "|".join(_BY_HEX) + r")(?![0-9a-fA-F])", re.IGNORECASE)


def css() -> str:
    """Declarations of the variables for light, dark and print."""
    light = " ".join(f"--{name}: {colour.light};" for name, colour in PALETTE.items())
    dark = " ".join(f"--{name}: {colour.dark};" for name, colour in PALETTE.items())
    return (
        f":root {{ color-scheme: light dark; {light} }}\n"
        f"  @media screen and (prefers-color-scheme: dark) {{ :root {{ {dark} }} }}"
    )


def themed(svg: str) -> str:
    """A chart whose colours follow the page's theme: each of the palette's becomes its variable."""
    return _HEX.sub(lambda found: f"var(--{_BY_HEX[found[0].lower()]})", svg)
