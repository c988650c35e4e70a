"""The things of the demo world: which tools go with an occupation, which objects stand in a setting, how drawn."""

from pathlib import Path

import yaml

TOOLS: dict[str, tuple[str, ...]] = {
    "nurse": ("syringe", "clipboard"),
    "librarian": ("book", "stack of books"),
    "chef": ("frying pan", "ladle"),
    "farmer": ("pitchfork", "basket"),
    "firefighter": ("axe", "hose"),
    "mechanic": ("wrench", "tyre"),
    "builder": ("hammer", "brick"),
    "scientist": ("flask", "test tube"),
    "police officer": ("radio", "handcuffs"),
    "gardener": ("watering can", "rake"),
}

SETTING_OBJECTS: dict[str, tuple[str, ...]] = {
    "hospital": ("bed", "drip stand", "screen"),
    "library": ("bookshelf", "reading lamp", "desk"),
    "kitchen": ("stove", "pot", "fridge"),
    "field": ("tractor", "hay bale", "fence"),
    "fire station": ("fire engine", "ladder", "hydrant"),
    "garage": ("car", "toolbox", "barrel"),
    "building site": ("crane", "wall", "cone"),
    "laboratory": ("microscope", "bottles", "computer"),
    "street": ("traffic light", "house", "street lamp"),
    "garden": ("tree", "flowers", "wheelbarrow"),
}

# name -> strokes (shape, points, colour, width); things.yaml says how to read them
THINGS: dict[str, list[tuple[str, list[float], str, float]]] = yaml.safe_load(
    (Path(__file__).parent / "things.yaml").read_text(encoding="utf-8")
)


def plural_free(name: str) -> bool:
    """Whether the name takes no article ("bottles", "flowers", "handcuffs")."""
    return name in ("bottles", "flowers", "handcuffs")


def article(name: str) -> str:
    """The name with its indefinite article, where it takes one."""
    if plural_free(name):
        return name
    return f"an {name}" if name[0] in "aeiou" else f"a {name}"
