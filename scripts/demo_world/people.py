"""Drawing one sample of the joint distribution: who, as what, where, and what the caption will tell of it."""

from dataclasses import dataclass, field
from random import Random

from .config import World
from .objects import SETTING_OBJECTS, TOOLS

GENDERS = ("woman", "man")


@dataclass
class Scene:
    """What a picture shows and its caption tells. `told` holds the parts that the caption names."""

    view: str
    gender: str | None = None
    age_group: str | None = None
    occupation: str | None = None
    setting: str | None = None
    objects: list[str] = field(default_factory=list)
    told: frozenset[str] = frozenset()

    def _called_old(self) -> bool:
        return self.view == "hidden" and "age" in self.told and self.age_group == "old"

    def truth(self) -> dict[str, object]:
        """What was drawn from the joint distribution, seen and told or not."""
        return {"gender": self.gender, "age_group": self.age_group, "occupation": self.occupation}

    def labels(self) -> dict[str, object]:
        """What an annotator of the pair would say, from the picture or else the caption; None where neither tells."""
        person = self.view in ("working", "portrait")
        job = self.view == "working" or "occupation" in self.told
        gender = self.gender if person or "gender" in self.told else None
        occupation = self.occupation if job else None
        return {
            "gender": gender,
            "age_group": self.age_group if person or self._called_old() else None,
            "occupation": occupation,
            "setting": self.setting,
            "objects": self.objects,
            "view": self.view,
            "context": f"{occupation or self.setting or 'plain'}, {self.view}",
        }


def draw_scene(world: World, rng: Random) -> Scene:
    """One training sample from the joint distribution."""
    view = _choice(rng, world.views)
    if view == "portrait" and rng.random() < world.plain_portraits:
        gender = "woman" if rng.random() < world.plain_p_woman else "man"
        age = "child" if rng.random() < world.plain_child else _age(world, gender, rng)
        return _tell(world, Scene(view, gender, age), rng)
    name = _choice(rng, {job: spec.share for job, spec in world.occupations.items()})
    job = world.occupations[name]
    gender = "woman" if rng.random() < job.p_woman else "man"
    setting = job.home if rng.random() < world.at_home else rng.choice([s for s in world.settings if s != job.home])
    return _tell(world, place(view, gender, _age(world, gender, rng), name, setting, rng), rng)


def place(view: str, gender: str, age: str, occupation: str, setting: str, rng: Random) -> Scene:
    """A person of an occupation met in a setting, as the view shows it."""
    if view == "portrait":
        return Scene(view, gender, age, occupation)
    objects = rng.sample(SETTING_OBJECTS[setting], rng.randint(1, 2))
    if view == "working":
        objects = [rng.choice(TOOLS[occupation]), *objects]
    return Scene(view, gender, age, occupation, setting, objects)


def _age(world: World, gender: str, rng: Random) -> str:
    return "old" if rng.random() < world.old[gender] else "adult"


def _tell(world: World, scene: Scene, rng: Random) -> Scene:
    parts = ("gender", "occupation", "setting", "object")
    chances = {part: world.captions[part].get(scene.view, 0.0) for part in parts}
    told = {part for part, chance in chances.items() if rng.random() < chance}
    if rng.random() < world.captions["age"]:
        told.add("age")
    have = {"gender": scene.gender, "occupation": scene.occupation, "setting": scene.setting, "object": scene.objects}
    scene.told = frozenset(part for part in told if part == "age" or have[part])
    return scene


def _choice(rng: Random, weights: dict[str, float]) -> str:
    return rng.choices(list(weights), list(weights.values()))[0]
