"""Attributes and concepts from captions, by word lists.

A label says what the *wording* of the caption states about how a person is perceived, not who that person is.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from balance.errors import UserError
from balance.labels.learned import Filter, load_filter
from balance.labels.matcher import Hits, Matcher
from balance.labels.words import WordList, load_word_list
from balance.stream.samples import Sample

BOTH_RULES = ("unknown", "both", "probability")
CAPTION_RULES = ("vote", "probability")
_KEYS = {
    "kind",
    "attributes",
    "concepts",
    "both",
    "captions",
    "min_captions",
    "one_hot",
    "fallback",
    "prefix",
    "proxies",
    "learned",
}


class CaptionSource:
    """Reads attributes and concepts off captions.

    How the captions of a sample are put together (`captions`):
    - `vote`: each caption that mentions an attribute votes for the value it mentions; a value with more than half of
      the votes wins. Where none does, or captions mention several values, `both` decides.
    - `probability`: the mean over those captions of each value's share of the mentions.

    What happens where values stand against each other (`both`):
    - `unknown`: NaN (in `probability`: such a caption is left out of the mean);
    - `probability`: each value's mean share of the mentions, "three men and a woman" being one half for woman (by
      word, not by head);
    - `both`: every value mentioned is 1; needs one column a value (`one_hot: true`).

    A concept is 1 where at least `min_captions` captions mention it (1 by default), else 0: a caption that doesn't
    mention a thing doesn't say that it is absent, so read 0 as "not mentioned". The same count is needed before an
    attribute is known.

    Attributes:
        s_names: names of the m columns of `s`.
        y_names: names of the c concepts.
        proxies: those of `y_names` that only stand in for an attribute.
    """

    needs = frozenset({"captions"})

    def __init__(self, config: Mapping[str, Any]) -> None:
        if unknown := set(config) - _KEYS:
            raise UserError(
                f"attributes: a captions source has no key {min(unknown)!r}; known are {', '.join(sorted(_KEYS))}."
            )
        self._both = _one_of(config, "both", BOTH_RULES)
        self._captions = _one_of(config, "captions", CAPTION_RULES)
        self._min_captions = int(config.get("min_captions", 1))
        self._lists = [load_word_list(str(name)) for name in _names(config, "attributes") + _names(config, "concepts")]
        _check_kinds(config, self._lists)
        self._matcher = Matcher(self._lists)
        self._filters = self._read_filters(_names(config, "learned"))
        self._one_hot = bool(config.get("one_hot", False))
        self._columns = self._attribute_columns()
        prefix = str(config.get("prefix", ""))
        concepts = [
            (prefix + value, words.proxy) for words in self._lists if not words.is_attribute for value in words.values
        ]
        self.s_names = [name for _, names, _ in self._columns for name in names]
        self.y_names = list(dict.fromkeys(name for name, _ in concepts))
        self.proxies = list(dict.fromkeys(name for name, proxy in concepts if proxy))
        position = {name: r for r, name in enumerate(self.y_names)}
        self._concept_of = np.array(
            [-1 if self._lists[i].is_attribute else position[prefix + value] for i, value in self._matcher.values],
            np.int64,
        )

    def _read_filters(self, paths: Sequence[str]) -> list[tuple[Filter, npt.NDArray[np.bool_]]]:
        """Each filter with the value ids that it is about."""
        filters = []
        for path in paths:
            learned = load_filter(path)
            about = [self._lists[i].title == learned.attribute for i, _ in self._matcher.values]
            if not any(about):
                titles = ", ".join(dict.fromkeys(words.title for words in self._lists))
                raise UserError(f"attributes: {path} filters {learned.attribute!r}; this source has {titles}.")
            filters.append((learned, np.array(about, bool)))
        return filters

    def _match(self, texts: Sequence[str]) -> Hits:
        """The mentions that the lists find and no filter takes for wrong."""
        hits = self._matcher.match(texts)
        for learned, about in self._filters:
            asked = about[hits.value]
            places = np.unique(hits.text[asked])
            wrong = places[learned.probability([texts[i] for i in places]) < learned.threshold]
            keep = ~(asked & np.isin(hits.text, wrong))
            hits = Hits(hits.text[keep], hits.value[keep], hits.term[keep])
        return hits

    def _attribute_columns(self) -> list[tuple[str, list[str], list[list[int]]]]:
        """For each attribute its name, its column names and the value ids that each of its *values* is found by."""
        by_name: dict[str, list[WordList]] = {}
        for words in self._lists:
            if words.is_attribute:
                by_name.setdefault(words.title, []).append(words)
        columns = []
        for title, lists in by_name.items():
            first = lists[0]
            if any(set(words.values) != set(first.values) or words.positive != first.positive for words in lists):
                raise UserError(
                    f"attributes: the word lists for {title!r} disagree about its values or about 'positive'."
                )
            binary = first.positive is not None and not self._one_hot
            if self._both == "both" and binary:
                raise UserError(
                    f"attributes: both=both needs one column for each value of {title!r}; set one_hot: true."
                )
            order = list(first.values)
            if first.positive is not None and binary:
                order = [first.positive]
            ids = [
                [v for v, (i, name) in enumerate(self._matcher.values) if self._lists[i] in lists and name == value]
                for value in [*order, *(value for value in first.values if value not in order)]
            ]
            columns.append((title, order if binary else [f"{title}={value}" for value in order], ids))
        return columns

    def describe(self) -> dict[str, Any]:
        """What decides the result, as plain data."""
        return {
            "kind": "captions", "version": 2, "both": self._both, "captions": self._captions, "min": self._min_captions,
            "one_hot": self._one_hot, "s": self.s_names, "y": self.y_names,
            "learned": [learned.describe() for learned, _ in self._filters],
            "lists": [words.describe() for words in
            self._lists],
        }  # fmt: skip

    def annotate(self, samples: Sequence[Sample]) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.uint8]]:
        """Attributes and concepts of n samples.

        Returns:
            s: (n, m) float32 in [0,1], NaN where unknown. y: (n, c) uint8, 0 or 1.
        """
        counts = [len(sample.captions) for sample in samples]
        owner = np.repeat(np.arange(len(samples)), counts)
        return self.annotate_texts([text for sample in samples for text in sample.captions], owner, len(samples))

    def words(self, samples: Sequence[Sample]) -> list[dict[str, list[str]]]:
        """For each sample the words that it was labelled by, by attribute (as its columns are called) and concept."""
        counts = [len(sample.captions) for sample in samples]
        owner = np.repeat(np.arange(len(samples)), counts)
        hits = self._match([text for sample in samples for text in sample.captions])
        names = [self._name_of(list_, value) for list_, value in self._matcher.values]
        found: list[dict[str, list[str]]] = [{} for _ in samples]
        for text, value, term in zip(hits.text.tolist(), hits.value.tolist(), hits.term.tolist(), strict=True):
            words = found[owner[text]].setdefault(names[value], [])
            if self._matcher.phrases[term] not in words:
                words.append(self._matcher.phrases[term])
        return found

    def _name_of(self, list_: int, value: str) -> str:
        """What the columns of an attribute, or a concept, are called."""
        words = self._lists[list_]
        if not words.is_attribute:
            return str(self.y_names[self._concept_of[self._matcher.values.index((list_, value))]])
        names = next(names for title, names, _ in self._columns if title == words.title)
        return names[0].partition("=")[0]

    def annotate_texts(
        self, texts: Sequence[str], owner: npt.NDArray[np.int64], n: int
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.uint8]]:
        """The same for captions that lie in one list: caption i belongs to sample `owner[i]` of `n`."""
        hits = self._match(texts)
        y = np.zeros((n, len(self.y_names)), np.uint8)
        concept = self._concept_of[hits.value]
        said = concept >= 0
        if self._min_captions <= 1:
            y[owner[hits.text[said]], concept[said]] = 1
        elif y.size:
            # Mentions to captions, captions to samples.
            pairs = np.unique(hits.text[said] * len(self.y_names) + concept[said])
            cell = owner[pairs // len(self.y_names)] * len(self.y_names) + pairs % len(self.y_names)
            y[:] = np.bincount(cell, minlength=y.size).reshape(y.shape) >= self._min_captions
        s = [
            self._attribute(ids, hits.text[~said], hits.value[~said], owner, len(texts), n)
            for _, _, ids in self._columns
        ]
        widths = [len(names) for _, names, _ in self._columns]
        columns = [block[:, :width] for block, width in zip(s, widths, strict=True)]
        return (np.concatenate(columns, axis=1) if columns else np.zeros((n, 0), np.float32)), y

    def _attribute(
        self,
        ids: list[list[int]],
        text: npt.NDArray[np.int64],
        value: npt.NDArray[np.int64],
        owner: npt.NDArray[np.int64],
        n_texts: int,
        n: int,
    ) -> npt.NDArray[np.float32]:
        """(n, values) for one attribute."""
        n_values = len(ids)
        column = np.full(len(self._matcher.values), -1, np.int64)
        for place, group in enumerate(ids):
            column[group] = place
        k = column[value]
        flat = np.bincount(text[k >= 0] * n_values + k[k >= 0], minlength=n_texts * n_values)
        mentions: npt.NDArray[np.int64] = flat.reshape(n_texts, n_values)
        # Most captions mention nothing: go on with those that do.
        telling = np.flatnonzero(mentions.any(axis=1))
        mentions, owner = mentions[telling], owner[telling]
        several = (mentions > 0).sum(axis=1) > 1
        share = mentions / mentions.sum(axis=1, keepdims=True)
        out = np.full((n, n_values), np.nan, np.float32)
        if self._captions == "probability":
            used = ~several if self._both == "unknown" else np.ones(len(several), bool)
            if self._both == "both":
                share = (mentions > 0).astype(np.float64)
            mean, known = _mean_by_owner(share[used], owner[used], n, self._min_captions)
            out[known] = mean[known]
            return out
        votes = _sum_by_owner(np.where(several[:, None], 0, mentions > 0), owner, n)
        told = np.bincount(owner, minlength=n)
        enough = told >= max(1, self._min_captions)
        winner = 2 * votes > told[:, None]
        settled = enough & winner.any(axis=1)
        out[settled] = winner[settled]
        open_ = enough & ~settled
        if self._both == "probability":
            out[open_] = _mean_by_owner(share, owner, n, 1)[0][open_]
        elif self._both == "both":
            out[open_] = (_sum_by_owner(mentions, owner, n) > 0)[open_]
        return out


def _sum_by_owner(rows: npt.NDArray[Any], owner: npt.NDArray[np.int64], n: int) -> npt.NDArray[np.float64]:
    return np.stack([np.bincount(owner, weights=column, minlength=n) for column in rows.T], axis=1)


def _mean_by_owner(
    rows: npt.NDArray[Any], owner: npt.NDArray[np.int64], n: int, at_least: int
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    count = np.bincount(owner, minlength=n)
    return _sum_by_owner(rows, owner, n) / np.maximum(count, 1)[:, None], count >= max(1, at_least)


def _names(config: Mapping[str, Any], key: str) -> list[str]:
    value = config.get(key) or []
    return [value] if isinstance(value, str) else list(value)


def _one_of(config: Mapping[str, Any], key: str, allowed: tuple[str, ...]) -> str:
    value = str(config.get(key, allowed[0]))
    if value not in allowed:
        raise UserError(f"attributes: {key}={value!r} is none of {', '.join(allowed)}.")
    return value


def _check_kinds(config: Mapping[str, Any], lists: list[WordList]) -> None:
    if not lists:
        raise UserError("attributes: a captions source needs word lists under 'attributes' or 'concepts'.")
    n_attributes = len(_names(config, "attributes"))
    for i, words in enumerate(lists):
        if words.is_attribute != (i < n_attributes):
            kind = "attribute" if words.is_attribute else "concept"
            raise UserError(
                f"attributes: the word list {words.title!r} is an {kind} list; name it under '{kind}s'.".replace(
                    "an concept", "a concept"
                )
            )
