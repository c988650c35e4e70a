"""Several sources for the same attributes: they confirm each other, the later corrects, or their evidence is combined.

    - kind: both
      rule: agree                # agree (default), last or probability
      sources:
        - {kind: captions, attributes: [gender]}
        - {kind: pictures, prompts: gender, model: {...}}
      checks: [check-captions, check-pictures]     # for `probability`: what scripts/label_check.py found of each

How two labels become one, where s is unknown only if no source knows it:
- `agree`: the label that all who know it give; unknown where they differ;
- `last`: the last source that knows it;
- `probability`: the probability of the value given all labels, from each source's measured errors, as if they erred
  independently of each other given the truth. A source whose check is null gives probabilities already.

How often sources differ is counted for every shard and told with the job's summary.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from balance.errors import UserError
from balance.labels.check_file import LabelCheck, read_check
from balance.stream.samples import Sample

Floats = npt.NDArray[np.float64]

RULES = ("agree", "last", "probability")
_KEYS = {"kind", "rule", "sources", "checks", "fallback"}
_SUREST = 0.99
"""No label is taken for surer than this: a hundred rows read without a fault say no more."""


class CombinedSource:
    """Sources that speak of the same attributes, as one.

    Attributes:
        s_names: names of the m attribute columns, those of all sources.
        y_names: names of the concepts; each belongs to one source.
        proxies: those of `y_names` that only stand in for an attribute.
        needs: what the sources read of a sample.
        sources: the sources themselves.
        disagreements: by column, samples that two or more sources know (`known`) and where they differ (`differ`),
            since `take_disagreements` was called.
    """

    def __init__(self, config: Mapping[str, Any], build: Callable[[Mapping[str, Any]], Any]) -> None:
        if unknown := set(config) - _KEYS:
            raise UserError(f"attributes: a source of kind both has no key {min(unknown)!r}; known: {sorted(_KEYS)}.")
        self._rule = str(config.get("rule", RULES[0]))
        if self._rule not in RULES:
            raise UserError(f"attributes: rule={self._rule!r} is none of {', '.join(RULES)}.")
        parts = config.get("sources")
        if not isinstance(parts, Sequence) or isinstance(parts, str) or len(parts) < 2:
            raise UserError("attributes: a source of kind both needs 'sources', a list of two or more.")
        self.sources = [build(part) for part in parts]
        names = [name for source in self.sources for name in source.s_names]
        self.s_names: list[str] = list(dict.fromkeys(names))
        if len(names) == len(self.s_names):
            raise UserError("attributes: the sources of kind both share no attribute; list them side by side instead.")
        self.y_names: list[str] = [name for source in self.sources for name in source.y_names]
        if len(set(self.y_names)) < len(self.y_names):
            raise UserError("attributes: two sources of kind both give the same concept; set a 'prefix' for one.")
        self.proxies: list[str] = [name for source in self.sources for name in source.proxies]
        self.needs: frozenset[str] = frozenset().union(*(source.needs for source in self.sources))
        self._places = [[self.s_names.index(name) for name in source.s_names] for source in self.sources]
        self._checks = self._read_checks(config.get("checks"))
        self.disagreements: Counter[tuple[str, str]] = Counter()

    def _read_checks(self, paths: Any) -> list[LabelCheck | None]:
        if self._rule != "probability":
            if paths is not None:
                raise UserError(f"attributes: 'checks' belongs to rule: probability, not to {self._rule}.")
            return [None] * len(self.sources)
        if not isinstance(paths, Sequence) or isinstance(paths, str) or len(paths) != len(self.sources):
            raise UserError(
                "attributes: rule: probability needs 'checks', one for each source: what scripts/label_check.py "
                "found of it, or null where it gives probabilities."
            )
        checks = [None if path is None else read_check(str(path)) for path in paths]
        if not any(checks):
            raise UserError("attributes: rule: probability needs at least one check, whose shares it starts from.")
        for source, check in zip(self.sources, checks, strict=True):
            if check is not None and (missing := [name for name in source.s_names if check.evidence(name) is None]):
                raise UserError(f"attributes: {check.path} has too few judged rows of {missing[0]!r} to go by.")
        return checks

    def describe(self) -> dict[str, Any]:
        """What decides the result, as plain data."""
        evidence = [
            None if check is None else [[name, *(check.evidence(name) or ())] for name in source.s_names]
            for source, check in zip(self.sources, self._checks, strict=True)
        ]
        parts = [source.describe() for source in self.sources]
        return {"kind": "both", "version": 1, "rule": self._rule, "sources": parts, "evidence": evidence}

    def annotate(self, samples: Sequence[Sample]) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.uint8]]:
        """Attributes and concepts of n samples; see `Annotator.annotate`."""
        given = np.full((len(self.sources), len(samples), len(self.s_names)), np.nan)
        y = []
        for layer, source, places in zip(given, self.sources, self._places, strict=True):
            s, concepts = source.annotate(samples)
            layer[:, places] = s
            y.append(concepts)
        self._count(given)
        combined = {"agree": _agreed, "last": _last, "probability": self._probability}[self._rule](given)
        return combined.astype(np.float32), np.concatenate(y, axis=1)

    def take_disagreements(self) -> dict[str, list[int]]:
        """For each column how many samples two sources know, and on how many of them they differ; then starts anew."""
        taken = {name: [self.disagreements[name, "known"], self.disagreements[name, "differ"]] for name in self.s_names}
        self.disagreements.clear()
        return taken

    def _count(self, given: Floats) -> None:
        known = (~np.isnan(given)).sum(axis=0) > 1
        differ = known & ~_alike(given)
        for k, name in enumerate(self.s_names):
            self.disagreements[name, "known"] += int(known[:, k].sum())
            self.disagreements[name, "differ"] += int(differ[:, k].sum())

    def _probability(self, given: Floats) -> Floats:
        """(n, m) posterior of each column; the values of a one-hot attribute are scaled to sum to 1."""
        out = np.full(given.shape[1:], np.nan)
        for k, name in enumerate(self.s_names):
            checks = [check.evidence(name) if check is not None else None for check in self._checks]
            prior = next(one[0] for one in checks if one is not None)
            odds = np.full(given.shape[1], _odds(prior))
            for layer, check in zip(given[:, :, k], checks, strict=True):
                at, if_yes, if_no = check if check is not None else (prior, 1.0, 0.0)
                p = np.clip(layer * if_yes + (1 - layer) * if_no, 1 - _SUREST, _SUREST)
                odds = np.where(np.isnan(layer), odds, odds * (p / (1 - p)) / _odds(at))
            out[:, k] = odds / (1 + odds)
        out[np.isnan(given).all(axis=0)] = np.nan
        groups: dict[str, list[int]] = {}
        for k, name in enumerate(self.s_names):
            attribute, one_hot, _ = name.partition("=")
            if one_hot:
                groups.setdefault(attribute, []).append(k)
        for places in groups.values():
            out[:, places] /= np.nansum(out[:, places], axis=1, keepdims=True).clip(1e-9)
        return out


def _odds(p: float) -> float:
    p = min(max(p, 1 - _SUREST), _SUREST)
    return p / (1 - p)


def _alike(given: Floats) -> npt.NDArray[np.bool_]:
    """(n, m) whether all sources that know a value are on the same side of one half."""
    yes = (given >= 0.5).any(axis=0)
    no = (given < 0.5).any(axis=0)
    return np.asarray(~(yes & no))


def _agreed(given: Floats) -> Floats:
    return np.where(_alike(given), _last(given), np.nan)


def _last(given: Floats) -> Floats:
    out = given[0]
    for layer in given[1:]:
        out = np.where(np.isnan(layer), out, layer)
    return out
