"""Attributes and concepts from metadata: what values mean, and a field of the `.json` member."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from balance.errors import UserError
from balance.stream.samples import BadSample, Sample, parse_json, read_shard

MAPPING_KEYS = {"kind", "field", "attribute", "positive", "values", "bins", "probability", "concepts", "prefix"}
MAPPING_KEYS |= {"proxies", "fallback", "one_hot"}
_MOST_CONCEPTS = 5000


class FieldMapping:
    """What the raw values of one field mean. Exactly one of these says how:

    - `values: {woman: [woman, female], man: [man, male]}`: an attribute, one column a value; with `positive: woman`
      one column;
    - `bins: {child: [0, 13], old: [60, null]}`: an attribute from a number, lower end included, upper end not;
    - `probability: woman`: the field is a number in [0, 1], or missing;
    - `concepts: [nurse, ...]` or `{nurse: [nurse, RN]}` or `auto` (see `resolve_auto`).

    A field may hold a list (a table: several rows a key). Values are compared as text, case folded. For an attribute a
    missing value, one that is not mapped, or values that disagree mean unknown; for concepts a missing value means 0.
    """  # noqa: D415 - the sentence goes on as a list

    def __init__(self, config: Mapping[str, Any]) -> None:
        self.field = str(config.get("field") or "")
        if not self.field:
            raise UserError(f"attributes: a {config.get('kind')} source needs 'field', the name of what it reads.")
        ways = [way for way in ("values", "bins", "probability", "concepts") if config.get(way)]
        if len(ways) != 1:
            raise UserError(
                f"attributes: the source for field {self.field!r} needs exactly one of values, bins, probability "
                f"and concepts; "
                f"it has {', '.join(ways) or 'none'}."
            )
        self.way = ways[0]
        self._spec = config[self.way]
        self.s_names: list[str] = []
        self.y_names: list[str] = []
        self._meaning: dict[str, int] = {}
        if self.way == "concepts":
            self._read_concepts(str(config.get("prefix", "")))
        elif self.way == "probability":
            self.s_names = [str(self._spec)]
        else:
            self._read_values(config)
        self.proxies = list(self.y_names) if config.get("proxies") else []

    def _read_concepts(self, prefix: str) -> None:
        if isinstance(self._spec, str):
            raise UserError(
                f"attributes: concepts={self._spec!r} for field {self.field!r} must be a list or a mapping; "
                "'auto' works for JSON fields where the shards are known."
            )
        spec = self._spec if isinstance(self._spec, Mapping) else {str(value): [value] for value in self._spec}
        self.y_names = [prefix + str(name) for name in spec]
        self._fill(spec)

    def _read_values(self, config: Mapping[str, Any]) -> None:
        if not isinstance(self._spec, Mapping) or len(self._spec) < 2:
            raise UserError(f"attributes: '{self.way}' for field {self.field!r} must map at least two names.")
        names = list(map(str, self._spec))
        positive = config.get("positive")
        self._positive = None
        if positive is not None and not config.get("one_hot"):
            if positive not in names or len(names) != 2:
                raise UserError(
                    f"attributes: positive={positive!r} for field {self.field!r} must be one of exactly two values."
                )
            self._positive = names.index(positive)
            self.s_names = [str(positive)]
        else:
            title = str(config.get("attribute") or self.field.rpartition(".")[2])
            self.s_names = [f"{title}={name}" for name in names]
        if self.way == "values":
            self._fill(self._spec)
        elif any(len(ends) != 2 for ends in self._spec.values()):
            raise UserError(f"attributes: each of 'bins' for field {self.field!r} needs two ends, [low, high].")

    def _fill(self, spec: Mapping[Any, Any]) -> None:
        for place, (name, raws) in enumerate(spec.items()):
            for raw in raws if isinstance(raws, Sequence) and not isinstance(raws, str) else [raws]:
                text = _folded(raw)
                if self._meaning.setdefault(text, place) != place:
                    raise UserError(
                        f"attributes: field {self.field!r} maps {text!r} twice, the second time to {name!r}."
                    )

    def describe(self) -> dict[str, Any]:
        """What decides the result, as plain data."""
        return {"field": self.field, "way": self.way, "s": self.s_names, "y": self.y_names,
                "meaning": sorted(self._meaning.items()), "spec": repr(self._spec)}  # fmt: skip

    def apply(self, raws: Sequence[Any]) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.uint8]]:
        """Raw values of n samples to (n, m) attributes and (n, c) concepts."""
        s = np.full((len(raws), len(self.s_names)), np.nan, np.float32)
        y = np.zeros((len(raws), len(self.y_names)), np.uint8)
        for i, raw in enumerate(raws):
            items = raw if isinstance(raw, list) else [raw]
            if self.way == "concepts":
                for item in items:
                    place = self._meaning.get(_folded(item))
                    if place is not None:
                        y[i, place] = 1
            elif self.way == "probability":
                s[i] = self._probability(items)
            else:
                places = {place for item in items if (place := self._place(item)) is not None}
                if len(places) == 1:
                    place = places.pop()
                    s[i] = float(place == self._positive) if self._positive is not None else 0.0
                    if self._positive is None:
                        s[i, place] = 1.0
        return s, y

    def _probability(self, items: list[Any]) -> float:
        numbers = [float(item) for item in items if isinstance(item, int | float)]
        if not numbers or np.isnan(numbers).any():
            return np.nan
        if min(numbers) < 0 or max(numbers) > 1:
            raise UserError(
                f"The field {self.field!r} holds {numbers[0]:g}, which is no probability; map it with values or bins."
            )
        return float(np.mean(numbers))

    def _place(self, item: Any) -> int | None:
        if self.way == "values":
            return self._meaning.get(_folded(item))
        if isinstance(item, str):
            try:
                item = float(item)
            except ValueError:
                return None
        if not isinstance(item, int | float) or item != item:
            return None
        for place, (low, high) in enumerate(self._spec.values()):
            if (low is None or item >= low) and (high is None or item < high):
                return place
        return None


class JsonSource:
    """A field of the `.json` member; `a.b` looks inside objects."""

    needs = frozenset({"meta"})

    def __init__(self, config: Mapping[str, Any]) -> None:
        if unknown := set(config) - MAPPING_KEYS:
            raise UserError(
                f"attributes: a json source has no key {min(unknown)!r}; known are {', '.join(sorted(MAPPING_KEYS))}."
            )
        self._mapping = FieldMapping(config)
        self.s_names, self.y_names, self.proxies = self._mapping.s_names, self._mapping.y_names, self._mapping.proxies

    def describe(self) -> dict[str, Any]:
        """What decides the result, as plain data."""
        return {"kind": "json", "version": 1, **self._mapping.describe()}

    def annotate(self, samples: Sequence[Sample]) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.uint8]]:
        """See `Annotator.annotate`."""
        return self._mapping.apply([json_field(sample.meta, self._mapping.field) for sample in samples])


def json_field(meta: Mapping[str, Any], field: str) -> Any:
    """The value of `a.b.c` in nested objects, or None."""
    value: Any = meta
    if field in meta:
        return meta[field]
    for part in field.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def resolve_auto(config: Mapping[str, Any], shards: Sequence[str]) -> Mapping[str, Any]:
    """A source's settings with `concepts: auto` replaced by the values that its JSON field takes in the shards, sorted.

    Reads all shards once; name the concepts in the configuration where that takes too long.

    Raises:
        UserError: the field holds no value at all, or so many that they can't be concepts.
    """
    if not isinstance(config, Mapping) or config.get("concepts") != "auto" or config.get("kind") != "json":
        return config
    field = str(config.get("field"))
    values: set[str] = set()
    for shard in shards:
        for raw in read_shard(shard, on_bad=lambda cause: None):
            try:
                meta = parse_json(raw.get("json", b"{}"))
            except BadSample:
                continue  # counted as bad by the job
            value = json_field(meta, field)
            values |= {_folded(item) for item in (value if isinstance(value, list) else [value]) if item is not None}
    if not values or len(values) > _MOST_CONCEPTS:
        raise UserError(
            f"attributes: the field {field!r} takes {len(values)} values in the {len(shards)} shards; "
            "concepts=auto needs 1 to 5,000: check the field's name, or list the concepts."
        )
    return {**config, "concepts": sorted(values)}


def _folded(raw: Any) -> str:
    return str(raw).strip().casefold()
