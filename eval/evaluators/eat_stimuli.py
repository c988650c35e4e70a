"""Definitions of association tests, and the texts and pictures that they name.

The project's own are in `eval/stimuli/eat/`; a file of one's own has the same form. A test is a list of four names,
X, Y, A and B, or a mapping of `x`, `y`, `a`, `b` with optionally `group` and `order` (for analyses over tests) and
`turned` (report -d). Without `y` it is a single-category test. A name is looked up under `stimuli`:

    {texts: [...]}                               texts as they are
    {words: <list>} or {sentences: <list>}       a list of texts.yaml, bare or in sentences
    {role: <role>, folder: <folder>}             the pictures of a folder in the set of a role
    {role: <role>, highest: n, by: <label>}      the n pictures with the highest values of a label; also `lowest`
"""

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from balance.errors import UserError
from eval.options import stimuli
from eval.sets import EvalSet

BUILT_IN = ("ieat", "valence26", "weat", "seat")


class MissingStimuli(UserError):
    """Pictures that are not there: the tests that need them are left out, the rest runs."""


@dataclass(frozen=True)
class Stimuli:
    """One side of a test.

    Attributes:
        name: what the definition calls it.
        texts: the texts, if it is of texts.
        role: else the role of the set that the pictures are in,
        rows: and their rows in that set, (n,).
        clusters: (n,) which stimuli belong together, such as sentences with one word; None for none.
    """

    name: str
    texts: tuple[str, ...] = ()
    role: str | None = None
    rows: NDArray[np.intp] | None = None
    clusters: NDArray[np.intp] | None = None

    def __len__(self) -> int:
        return len(self.texts) if self.rows is None else len(self.rows)


@dataclass(frozen=True)
class Test:
    """A test by the names of its stimuli; `y` is None for a single-category test."""

    name: str
    x: str
    y: str | None
    a: str
    b: str
    group: str | None = None
    order: str | None = None
    turned: bool = False

    @property
    def sides(self) -> tuple[str, ...]:
        """The names of all stimuli, X first."""
        return tuple(side for side in (self.x, self.y, self.a, self.b) if side is not None)


@dataclass(frozen=True)
class Definitions:
    """A file of tests, read.

    Attributes:
        name: what it is called in messages.
        tests: by name.
        samples: partitions sampled for a p-value.
        stimuli: name -> definition.
        counts: published number of pictures in a folder.
        folders: role of the folders that names with a slash stand for.
        texts: "words" or "sentences": what other names not under `stimuli` stand for.
    """

    name: str
    tests: dict[str, Test]
    samples: int
    stimuli: dict[str, Any]
    counts: dict[str, int]
    folders: str | None
    texts: str

    def define(self, stimulus: str) -> dict[str, Any]:
        """What a name stands for."""
        if stimulus in self.stimuli:
            return dict(self.stimuli[stimulus])
        if "/" in stimulus and self.folders:
            return {"role": self.folders, "folder": stimulus}
        return {self.texts: stimulus}

    def roles(self) -> list[str]:
        """The roles of the sets that the tests take pictures from."""
        found = [self.define(side).get("role") for test in self.tests.values() for side in test.sides]
        return list(dict.fromkeys(role for role in found if role))


def read_definitions(source: str | Mapping[str, Any]) -> Definitions:
    """Read tests: a built-in file's name, a path of one's own file, or its content.

    Raises:
        UserError: there is no such file, or it does not define tests.
    """
    name = source if isinstance(source, str) else "tests"
    if isinstance(source, str):
        if source in BUILT_IN:
            content = stimuli(f"eat/{source}")
        elif Path(source).is_file():
            content = yaml.safe_load(Path(source).read_text(encoding="utf-8"))
        else:
            raise UserError(f"There are no tests {source!r}: name {', '.join(BUILT_IN)} or a YAML file.")
    else:
        content = dict(source)
    known = {"samples", "tests", "stimuli", "counts", "folders", "texts"}
    if not isinstance(content, Mapping) or not content.get("tests") or set(content) - known:
        raise UserError(f"{name} must define `tests`, and may define {', '.join(sorted(known - {'tests'}))}.")
    return Definitions(
        name,
        {str(test): _read_test(str(test), spec) for test, spec in content["tests"].items()},
        int(content.get("samples", 10_000)),
        dict(content.get("stimuli") or {}),
        dict(content.get("counts") or {}),
        content.get("folders"),
        content.get("texts", "words"),
    )


def _read_test(name: str, spec: Any) -> Test:
    try:
        if isinstance(spec, Mapping):
            return Test(name, **{"y": None, **spec})
        x, y, a, b = spec
        return Test(name, x, y, a, b)
    except (TypeError, ValueError) as error:
        raise UserError(
            f"The association test {name} must be [X, Y, A, B] or have x, y, a and b (and may have group, order, "
            f"turned); it is {spec}."
        ) from error


def resolve(definitions: Definitions, stimulus: str, sets: Mapping[str, EvalSet]) -> Stimuli:
    """The texts or pictures that a name stands for.

    Raises:
        MissingStimuli: the set or its pictures are not there.
        UserError: the definition makes no sense.
    """
    spec = definitions.define(stimulus)
    if "texts" in spec:
        texts = tuple(str(text) for text in spec["texts"] or ())
        if not texts:
            raise UserError(f"The stimuli {stimulus!r} of {definitions.name} are empty.")
        return Stimuli(stimulus, texts)
    if "words" in spec:
        return Stimuli(stimulus, tuple(text_list(spec["words"])[0]))
    if "sentences" in spec:
        sentences = text_list(spec["sentences"])[1]
        words = {word: number for number, word in enumerate(dict.fromkeys(word for word, _ in sentences))}
        clusters = np.array([words[word] for word, _ in sentences], dtype=np.intp)
        return Stimuli(stimulus, tuple(sentence for _, sentence in sentences), clusters=clusters)
    role = spec.get("role")
    if not role or not ("folder" in spec or (spec.get("by") and ("highest" in spec) != ("lowest" in spec))):
        raise UserError(
            f"The stimuli {stimulus!r} of {definitions.name} must have texts, words, sentences, or a role with a "
            f"folder or with highest or lowest and by; they are {spec}."
        )
    if role not in sets:
        raise MissingStimuli(f"no set is given for the role {role}")
    rows = _of_folder(sets[role], spec["folder"]) if "folder" in spec else _extreme(sets[role], spec)
    return Stimuli(stimulus, role=role, rows=rows)


def _of_folder(data: EvalSet, folder: str) -> NDArray[np.intp]:
    prefix = folder.rstrip("/") + "/"
    rows = [row for row, key in enumerate(data.keys) if key.startswith(prefix)]
    if not rows:
        raise MissingStimuli(f"the set {data.name} has no pictures in {folder}")
    return np.array(rows, dtype=np.intp)


def _extreme(data: EvalSet, spec: Mapping[str, Any]) -> NDArray[np.intp]:
    """The pictures with the highest or the lowest values of a label; ties in the order of their keys."""
    count, label = int(spec.get("highest", spec.get("lowest", 0))), spec["by"]
    pictures = _labelled(data, label)
    try:
        values = [(float(labels[label]), key, row) for row, (labels, key) in enumerate(pictures)]
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"The label {label} of the set {data.name} must be a number for every picture.") from error
    if len(values) < 2 * count:
        raise MissingStimuli(
            f"the set {data.name} has {len(values)} pictures with the label {label}; {2 * count} are needed"
        )
    sign = -1 if "highest" in spec else 1
    values.sort(key=lambda value: (sign * value[0], value[1]))
    return np.array([row for _, _, row in values[:count]], dtype=np.intp)


def _labelled(data: EvalSet, label: str) -> list[tuple[dict[str, Any], str]]:
    if not any(label in labels for labels in data.labels):
        raise UserError(
            f"The set {data.name} has no label {label!r}: give eval.sets.{data.name}.labels a table with that column."
        )
    return list(zip(data.labels, data.keys, strict=True))


@cache
def text_list(name: str) -> tuple[list[str], list[tuple[str, str]]]:
    """A list of texts.yaml: its words, and (word, sentence) for all its sentences.

    Raises:
        UserError: there is no such list.
    """
    content = stimuli("eat/texts")
    if name not in content["lists"]:
        raise UserError(f"There is no list of texts {name!r}; there are {', '.join(content['lists'])}.")
    spec = content["lists"][name]
    sentences = [
        (word, _fill(template, word, content))
        for kind, templates in content["templates"].items()
        for word in spec.get(kind, ())
        for template in templates
    ]
    without = Counter(spec.get("without", ()))
    kept = []
    for word, sentence in sentences:
        if without[sentence]:
            without[sentence] -= 1
        else:
            kept.append((word, sentence))
    kept += [(word, sentence) for word, more in spec.get("also", {}).items() for sentence in more]
    return list(spec.get("words") or dict.fromkeys(word for word, _ in kept)), kept


def _fill(template: str, word: str, content: Mapping[str, Any]) -> str:
    article = content["articles"].get(word) or ("an" if word[0].lower() in "aeiou" else "a")
    plural = content["plurals"].get(word) or _plural(word)
    text = template.replace("{a}", f"{article} {word}").replace("{s}", plural).replace("{}", word)
    return text[0].upper() + text[1:]


def _plural(word: str) -> str:
    if re.search("[^aeiou]y$", word):
        return word[:-1] + "ies"
    return word + ("es" if re.search("(s|sh|ch|x)$", word) else "s")
