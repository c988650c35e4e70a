"""The configured joint distribution of the demo world, read and checked."""

from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml

from balance.errors import UserError

from .objects import SETTING_OBJECTS, TOOLS

VIEWS = ("working", "portrait", "hidden", "scene")


@dataclass(frozen=True)
class Occupation:
    """One occupation: its share of women, its relative frequency, and the setting where it is mostly met."""

    p_woman: float
    share: float
    home: str


@dataclass(frozen=True)
class World:
    """The joint distribution. All values are probabilities or relative shares; `skewed.yaml` explains each."""

    name: str
    views: dict[str, float]
    occupations: dict[str, Occupation]
    at_home: float
    old: dict[str, float]
    plain_portraits: float
    plain_p_woman: float
    plain_child: float
    captions: dict[str, Any]

    @property
    def settings(self) -> list[str]:
        """The settings, in the order of their occupations."""
        return list(dict.fromkeys(job.home for job in self.occupations.values()))


def load_world(path: str | Path) -> World:
    """Read a world file. Raises UserError with the name of what is missing, unknown or out of range."""
    try:
        raw = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"can't read the world file {path}: {error.strerror}; give --world a YAML file") from error
    if not isinstance(raw, dict):
        raise UserError(f"the world file {path} should be a mapping such as scripts/demo_world/skewed.yaml")
    _same_keys(path, "", raw, World.__dataclass_fields__)
    _same_keys(path, "views", raw["views"], VIEWS)
    _same_keys(path, "old", raw["old"], ("woman", "man"))
    jobs = {}
    for name, job in raw["occupations"].items():
        _known(path, "occupation", name, TOOLS)
        _same_keys(path, f"occupations.{name}", job, Occupation.__dataclass_fields__)
        _known(path, "setting", job["home"], SETTING_OBJECTS)
        jobs[name] = Occupation(**job)
    world = World(**{**raw, "occupations": jobs})
    _check_ranges(path, raw)
    return world


def _same_keys(path: str | Path, where: str, found: dict[str, Any], wanted: Any) -> None:
    place = f" in {where}" if where else ""
    for key in found:
        _known(path, f"key{place}", key, wanted)
    missing = [key for key in wanted if key not in found]
    if missing:
        raise UserError(f"{path}: {', '.join(missing)} missing{place}")


def _known(path: str | Path, what: str, name: str, names: Any) -> None:
    if name not in names:
        near = get_close_matches(name, list(names), 1, 0.0)
        raise UserError(f"{path}: unknown {what} {name!r}; the nearest valid name is {near[0]!r}")


def _check_ranges(path: str | Path, raw: dict[str, Any], where: str = "") -> None:
    for key, value in raw.items():
        name = f"{where}.{key}" if where else key
        if isinstance(value, dict):
            _check_ranges(path, value, name)
        elif isinstance(value, int | float) and not (0 <= value <= 1 or (key == "share" and value > 0)):
            raise UserError(f"{path}: {name} is {value}, and should lie between 0 and 1")
