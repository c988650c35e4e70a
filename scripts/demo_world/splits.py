"""The splits of the demo world: skewed training pairs, and balanced pictures to evaluate on."""

from random import Random

from .config import World
from .objects import SETTING_OBJECTS
from .people import GENDERS, Scene, draw_scene, place

# how many pictures each evaluation split holds for every combination that it balances
PEOPLE_EACH = 40
PORTRAITS_EACH = 400
HIDDEN_EACH = 50
SCENES_EACH = 60


def split_sizes(world: World, train: int) -> dict[str, int]:
    """How many samples each split has."""
    return {
        "train": train,
        "eval/people": PEOPLE_EACH * len(GENDERS) * len(world.occupations),
        "eval/portraits": PORTRAITS_EACH * len(GENDERS),
        "eval/hidden": HIDDEN_EACH * len(world.settings),
        "eval/scenes": SCENES_EACH * len(world.settings),
    }


def sample(world: World, split: str, index: int, rng: Random) -> Scene:
    """Sample number `index` of a split. Evaluation splits run through the combinations that they balance."""
    if split == "train":
        return draw_scene(world, rng)
    gender = GENDERS[index % 2]
    age = rng.choice(("adult", "adult", "old"))
    jobs, settings = list(world.occupations), world.settings
    if split == "eval/people":
        job = jobs[index // 2 % len(jobs)]
        home = world.occupations[job].home
        scene = place("working", gender, age, job, home if rng.random() < world.at_home else rng.choice(settings), rng)
        scene.told = frozenset(("gender", "occupation", "setting", "object"))
        return scene
    if split == "eval/portraits":
        return Scene("portrait", gender, age, told=frozenset(("gender",)))
    setting = settings[index % len(settings)]
    objects = rng.sample(SETTING_OBJECTS[setting], rng.randint(1, 2))
    view = "hidden" if split == "eval/hidden" else "scene"
    return Scene(view, setting=setting, objects=objects, told=frozenset(("setting", "object")))
