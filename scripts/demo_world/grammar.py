"""Captions from a small grammar with synonyms. What a caption names is decided before (`Scene.told`)."""

from random import Random

from .objects import article
from .people import Scene

WORDS = {
    ("woman", "adult"): ("woman", "woman", "woman", "lady", "female person"),
    ("man", "adult"): ("man", "man", "man", "gentleman", "male person"),
    ("woman", "child"): ("girl", "girl", "young girl"),
    ("man", "child"): ("boy", "boy", "young boy"),
    (None, "adult"): ("person", "person", "figure"),
    (None, "child"): ("child", "kid"),
}
OCCUPATIONS = {
    "nurse": ("nurse", "nurse", "hospital nurse"),
    "librarian": ("librarian",),
    "chef": ("chef", "chef", "cook"),
    "farmer": ("farmer",),
    "firefighter": ("firefighter", "firefighter", "fire fighter"),
    "mechanic": ("mechanic", "mechanic", "car mechanic"),
    "builder": ("builder", "builder", "construction worker"),
    "scientist": ("scientist", "scientist", "researcher"),
    "police officer": ("police officer", "police officer", "cop"),
    "gardener": ("gardener", "gardener"),
}
OLD = ("old", "elderly")
PHOTO = ("a photo of {}", "a photo of {}", "a picture of {}", "{}", "an image of {}")
PORTRAIT = ("a photo of {}", "a portrait of {}", "{}", "a headshot of {}", "a picture of {}")
AT_WORK = ("{}", "{} at work", "{} on duty")
BEHIND = ("{}", "{}", "{} from behind", "{} in a hooded coat")
PLACE = ("in {}", "in {}", "at {}")
EMPTY = ("{}", "{}", "{} with nobody there", "{}, empty")


def caption(scene: Scene, rng: Random) -> str:
    """A caption that names just what the scene tells."""
    if scene.view == "scene":
        return _scene(scene, rng)
    phrase = _person(scene, rng)
    if scene.view == "portrait":
        return rng.choice(PORTRAIT).format(phrase)
    phrase = rng.choice(AT_WORK if scene.view == "working" else BEHIND).format(phrase)
    if "object" in scene.told:
        link = "with" if scene.view == "working" else "next to"
        phrase += f" {link} {article(scene.objects[0])}"
    if "setting" in scene.told:
        phrase += " " + _place(scene, rng)
    return rng.choice(PHOTO).format(phrase)


def _person(scene: Scene, rng: Random) -> str:
    job = scene.occupation if "occupation" in scene.told else None
    noun = rng.choice(
        WORDS[scene.gender if "gender" in scene.told else None, "child" if scene.age_group == "child" else "adult"]
    )
    old = rng.choice(OLD) + " " if "age" in scene.told and scene.age_group == "old" else ""
    if job is None:
        return _indefinite(old + noun)
    title = rng.choice(OCCUPATIONS[job])
    if "gender" not in scene.told:
        return _indefinite(old + title)
    return f"{_indefinite(old + noun)} {rng.choice(('who is', 'who works as', 'working as'))} {_indefinite(title)}"


def _scene(scene: Scene, rng: Random) -> str:
    owner = rng.choice(WORDS[scene.gender, "adult"]) if "gender" in scene.told else None
    setting = scene.setting if "setting" in scene.told else None
    thing = article(scene.objects[0]) if "object" in scene.told else None
    if setting and thing:
        phrase = f"{_indefinite(setting)} with {thing}"
    elif setting:
        phrase = _indefinite(setting)
    else:
        phrase = thing or "an empty place"
    if owner and not (setting or thing):  # as on the web: a caption that names somebody who is not in the picture
        return rng.choice(PHOTO).format(_indefinite(owner))
    if owner:
        phrase += rng.choice((" of {}", " belonging to {}", " where {} works")).format(_indefinite(owner))
        return rng.choice(PHOTO).format(phrase)
    return rng.choice(PHOTO).format(rng.choice(EMPTY).format(phrase))


def _place(scene: Scene, rng: Random) -> str:
    setting = str(scene.setting)
    if setting == "street":
        return "on a street"
    return rng.choice(PLACE).format(_indefinite(setting))


def _indefinite(words: str) -> str:
    return f"an {words}" if words[0] in "aeiou" else f"a {words}"
