"""Checks of evaluators' options, told in one sentence before a run starts."""

from collections import Counter
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from functools import cache
from importlib.resources import files
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from balance.errors import UserError
from eval.sets import EvalSet, MissingSet
from eval.wording import NOT_MENTIONED, SEVERAL

ENOUGH = 5  # images that must bear a value of a label for it to be a concept


def options(name: str, config: Mapping[str, Any], needed: set[str], optional: set[str]) -> None:
    """Check that an evaluator has the options it needs and no others.

    Raises:
        UserError: an option is missing or unknown.
    """
    known = needed | optional | {"kind", "set", "sets"}
    for key in config:
        if key not in known:
            near = get_close_matches(key, known, n=1, cutoff=0.0)
            raise UserError(
                f"eval.evaluators.{name}.{key} is not an option of {config['kind']}; did you mean {near[0]}?"
            )
    for key in sorted(needed):
        if config.get(key) is None:
            raise UserError(f"eval.evaluators.{name}.{key} must be given for the kind {config['kind']}.")


def whole_number(name: str, option: str, value: Any, most: int, what: str = "") -> int | None:
    """A whole number of at least 1 that an option gives; None where it is not given.

    Raises:
        UserError: it is another value, or above `most`.
    """
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
        raise UserError(
            f"eval.evaluators.{name}.{option}={value} must be a whole number of at least 1 and at most {most:,}{what}."
        )
    return value


def prompt_lists(name: str, prompts: Any, at_least: int) -> dict[str, list[str]]:
    """Read prompts given as `group: prompt` or `group: [prompt, ...]`.

    Raises:
        UserError: fewer groups than needed, or one without a prompt.
    """
    found = {str(k): [v] if isinstance(v, str) else [str(p) for p in v or ()] for k, v in dict(prompts).items()}
    if len(found) < at_least or not all(found.values()):
        raise UserError(f"eval.evaluators.{name}.prompts needs at least {at_least} groups, each with a prompt.")
    return found


def fill_templates(name: str, templates: Sequence[str], words: Mapping[str, Sequence[str]]) -> list[list[str]]:
    """Put each concept's words into each template at `{c}`; a list of prompts per concept.

    Raises:
        UserError: a template has no `{c}`.
    """
    templates = [templates] if isinstance(templates, str) else list(templates)
    for template in templates:
        if "{c}" not in template:
            raise UserError(f"eval.evaluators.{name}: the template {template!r} has no {{c}} to put a name in.")
    for concept, group in words.items():
        if not group or not all(group):
            raise UserError(f"eval.evaluators.{name}: {concept!r} has no words.")
    return [[template.replace("{c}", word) for template in templates for word in group] for group in words.values()]


def need_field(name: str, data: EvalSet, field: str) -> None:
    """Check that a set has a label.

    Raises:
        UserError: no sample has it; the sentence lists what there is.
    """
    if not any(label.get(field) is not None for label in data.labels):
        known = sorted({key for label in data.labels for key in label})
        raise UserError(
            f"eval.evaluators.{name}: no sample of the set {data.name} has the label {field!r}; "
            f"it has {', '.join(known) or 'none'}."
        )


def rows_where(name: str, data: EvalSet, where: Any) -> NDArray[np.int64]:
    """The rows of a set whose labels have the values wanted, compared as text; all rows without `where`.

    Args:
        name: the evaluator's, for messages.
        data: the set.
        where: label -> value, or list of values.

    Raises:
        UserError: no picture has one of the labels.
        MissingSet: no picture has all the values.
    """
    wanted = {
        str(label): {str(v) for v in (values if isinstance(values, (list, tuple)) else [values])}
        for label, values in dict(where or {}).items()
    }
    for label in wanted:
        need_field(name, data, label)
    rows = [
        row
        for row, known in enumerate(data.labels)
        if all(str(known.get(label)) in values for label, values in wanted.items())
    ]
    if not rows:
        asked = ", ".join(f"{label}={'|'.join(sorted(values))}" for label, values in wanted.items())
        raise MissingSet(f"no picture of the set {data.name} has {asked}.")
    return np.array(rows)


def words_of(concepts: Any) -> dict[str, list[str]]:
    """Read concepts given as a list of names or as `name: word` or `name: [word, ...]`."""
    if isinstance(concepts, Mapping):
        return {str(k): [v] if isinstance(v, str) else [str(w) for w in v] for k, v in concepts.items()}
    return {str(concept): [str(concept)] for concept in concepts}


def concepts_of(name: str, data: EvalSet, concepts: Any) -> dict[str, list[str]]:
    """Concepts as `words_of` reads them, or those that the images of a set bear, where a label is named.

    Args:
        name: the evaluator's, for messages.
        data: the set.
        concepts: names, name -> words, or the name of a label: then each of its values that `ENOUGH` images bear.

    Raises:
        UserError: no sample has the label.
        MissingSet: fewer than two concepts are borne by enough images.
    """
    if not isinstance(concepts, str):
        return words_of(concepts)
    need_field(name, data, concepts)
    counts = Counter(str(known[concepts]) for known in data.labels if known.get(concepts) is not None)
    found = sorted(value for value, n in counts.items() if n >= ENOUGH and value not in (NOT_MENTIONED, SEVERAL))
    if len(found) < 2:
        raise MissingSet(f"fewer than two values of {concepts} are borne by {ENOUGH} images of the set {data.name}.")
    return words_of(found)


@cache
def stimuli(name: str) -> dict[str, Any]:
    """The project's own words, prompts and test definitions of a protocol: `eval/stimuli/<name>.yaml`."""
    text = files("eval").joinpath("stimuli", f"{name}.yaml").read_text(encoding="utf-8")
    return dict(yaml.safe_load(text))


def labels_of(by: Any) -> list[str]:
    """Names of labels given as one, several or none."""
    return [] if not by else [by] if isinstance(by, str) else [str(label) for label in by]


def groups_by(name: str, data: EvalSet, by: Any) -> dict[str, NDArray[np.int64]]:
    """The rows of a set by the value of a label, or by the values of several labels together.

    Args:
        name: the evaluator's, for messages.
        data: the set; pictures without one of the labels belong to no group.
        by: a label, or several.

    Returns:
        `label=value, label=value` -> rows, in the order of the names; {} without labels.

    Raises:
        UserError: no picture has one of the labels.
    """
    labels = labels_of(by)
    for label in labels:
        need_field(name, data, label)
    found: dict[str, list[int]] = {}
    for row, known in enumerate(data.labels):
        values = [known.get(label) for label in labels]
        if labels and not any(value is None or value == "" for value in values):
            group = ", ".join(f"{label}={value}" for label, value in zip(labels, values, strict=True))
            found.setdefault(group, []).append(row)
    return {group: np.array(found[group]) for group in sorted(found)}
