"""Find the terms of all word lists in many captions at once.

Captions become one array of word ids (`tokens.py`); a trie over ids is then walked from all positions together, one
step per length of phrase, so that the cost for each caption is that of cutting it into words.

What counts:
- a term counts unless it lies inside a longer term or an excluded phrase of the same list ("hot dog", "man made");
- not after a negator ("no man", "without any of ...": only words of `skip` may stand between);
- a capitalised term of `names` ("Baker") counts only after a determiner ("a Baker"), or as the first word when no other
  capitalised word follows; never after a title ("Dr. Baker"). Lower case and ALL CAPITALS count as usual;
- a weak term counts only where the caption holds none of the list's `unless` terms ("a dog and his bone").
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from balance.labels.tokens import CAPITALISED, SEPARATOR_ID, Vocabulary
from balance.labels.words import WordList

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

_EXCLUDED, _UNLESS = -1, -2


@dataclass(frozen=True)
class Hits:
    """Mentions found: row i says that value `value[i]` is mentioned once in text `text[i]`."""

    text: Ints
    value: Ints


class Matcher:
    """All word lists, ready to be looked for.

    Attributes:
        values: (list index, value name) for each value id that `Hits` speaks of.
    """

    def __init__(self, lists: Sequence[WordList]) -> None:
        self.values: list[tuple[int, str]] = [(i, value) for i, words in enumerate(lists) for value in words.values]
        self._value_ids = {value: i for i, value in enumerate(self.values)}
        self._vocabulary = Vocabulary()
        self._entries: list[tuple[int, int, int, bool, bool]] = []  # node, list, value, name, weak
        self._children: dict[tuple[int, int], int] = {}
        self._n_lists = len(lists)
        for i, words in enumerate(lists):
            for term in words.terms:
                self._add(term.tokens, i, self._value_ids[i, term.value], term.name, term.weak)
            for tokens in words.exclude:
                self._add(tokens, i, _EXCLUDED)
            for tokens in words.unless:
                self._add(tokens, i, _UNLESS)
        grammar = [self._word_flags(words) for words in lists]
        self._freeze()
        self._grammar = [tuple(self._table(words) for words in kinds) for kinds in grammar]

    def _add(self, tokens: tuple[str, ...], list_: int, value: int, name: bool = False, weak: bool = False) -> None:
        node = 0
        for token in tokens:
            key = (node, self._vocabulary.add(token))
            node = self._children.setdefault(key, len(self._children) + 1)
        self._entries.append((node, list_, value, name, weak))

    def _word_flags(self, words: WordList) -> tuple[Ints, ...]:
        kinds = (words.negators, words.skip, words.determiners, words.titles)
        return tuple(np.array(sorted(self._vocabulary.add(token) for token in kind), np.int64) for kind in kinds)

    def _freeze(self) -> None:
        """Turn the trie into arrays: edges sorted by (node, word), entries sorted by node."""
        self._width = self._vocabulary.size
        edges = sorted((node * self._width + word, child) for (node, word), child in self._children.items())
        self._edge_keys = np.array([key for key, _ in edges], np.int64)
        self._edge_children = np.array([child for _, child in edges], np.int64)
        self._first = np.zeros(self._width, np.int64)
        for (node, word), child in self._children.items():
            if node == 0:
                self._first[word] = child
        entries = np.array(sorted(self._entries), np.int64).reshape(-1, 5)
        nodes = np.arange(len(self._children) + 2)
        self._entry_start = np.searchsorted(entries[:, 0], nodes)
        self._entry_list, self._entry_value = entries[:, 1], entries[:, 2]
        self._entry_name, self._entry_weak = entries[:, 3].astype(bool), entries[:, 4].astype(bool)

    def _table(self, words: Ints) -> Bools:
        table = np.zeros(self._width, bool)
        table[words] = True
        return table

    def match(self, texts: Sequence[str]) -> Hits:
        """Find all mentions in n captions.

        Args:
            texts: n captions in any script.

        Returns:
            The mentions, ordered by list.
        """
        if not texts:
            return Hits(np.zeros(0, np.int64), np.zeros(0, np.int64))
        codes, order = self._encode(texts)
        words, capitalised = codes >> 2, (codes & 3) == CAPITALISED
        start, end, entry = self._walk(words)
        text = order[np.cumsum(words == SEPARATOR_ID)[start] - 1]
        found: list[Hits] = []
        for list_ in range(self._n_lists):
            of_list = np.flatnonzero(self._entry_list[entry] == list_)
            if len(of_list):
                found.append(self._of_one_list(list_, words, capitalised, text, start, end, entry, of_list))
        if not found:
            return Hits(np.zeros(0, np.int64), np.zeros(0, np.int64))
        return Hits(np.concatenate([hits.text for hits in found]), np.concatenate([hits.value for hits in found]))

    def _encode(self, texts: Sequence[str]) -> tuple[Ints, Ints]:
        """Codes of all texts, and which text stands where: ASCII ones first, one other would slow them all down."""
        plain = np.fromiter(map(str.isascii, texts), bool, len(texts))
        order = np.argsort(~plain, kind="stable")
        if plain.all() or not plain.any():
            return self._vocabulary.encode(texts), order
        first = self._vocabulary.encode([texts[i] for i in order[: plain.sum()]])
        others = self._vocabulary.encode([texts[i] for i in order[plain.sum() :]])
        return np.concatenate([first[:-1], others]), order

    def _walk(self, words: Ints) -> tuple[Ints, Ints, Ints]:
        """All places where some term stands: start, end (exclusive) and entry, ordered by start."""
        at = np.flatnonzero(self._first[words])
        node = self._first[words[at]]
        starts, ends, nodes = [at], [at + 1], [node]
        length = 1
        while len(at):
            after = at + length
            inside = after < len(words)
            at, node, after = at[inside], node[inside], after[inside]
            key = node * self._width + words[after]
            edge = np.minimum(np.searchsorted(self._edge_keys, key), len(self._edge_keys) - 1)
            going = self._edge_keys[edge] == key
            at, node = at[going], self._edge_children[edge[going]]
            length += 1
            starts.append(at)
            ends.append(at + length)
            nodes.append(node)
        start, end, node = np.concatenate(starts), np.concatenate(ends), np.concatenate(nodes)
        order = np.argsort(start, kind="stable")
        start, end, node = start[order], end[order], node[order]
        first, count = self._entry_start[node], self._entry_start[node + 1] - self._entry_start[node]
        offset = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
        return np.repeat(start, count), np.repeat(end, count), np.repeat(first, count) + offset

    def _of_one_list(
        self,
        list_: int,
        words: Ints,
        capitalised: Bools,
        text: Ints,
        start: Ints,
        end: Ints,
        entry: Ints,
        of_list: Ints,
    ) -> Hits:
        text, start, end, entry = text[of_list], start[of_list], end[of_list], entry[of_list]
        value = self._entry_value[entry]
        is_negator, is_skip, is_determiner, is_title = self._grammar[list_]
        keep = value != _UNLESS
        guards = np.unique(text[~keep])
        text, start, end, entry, value = (a[keep] for a in (text, start, end, entry, value))
        keep = (value >= 0) & ~_inside_longer(start, end) & ~_negated(words, start, is_negator, is_skip)
        name = self._entry_name[entry] & capitalised[start]
        if name.any():
            before = words[start - 1]
            alone = (before == SEPARATOR_ID) & ~capitalised[end]
            keep &= ~name | is_determiner[before] | alone
        keep &= ~(self._entry_name[entry] & is_title[words[start - 1]])
        if len(guards):
            keep &= ~(self._entry_weak[entry] & np.isin(text, guards))
        return Hits(text[keep], value[keep])


def _inside_longer(start: Ints, end: Ints) -> Bools:
    """Which spans, ordered by start, lie inside a longer one."""
    if not len(start):
        return np.zeros(0, bool)
    reach = np.maximum.accumulate(end)  # furthest end of any span up to this one
    group_first = np.searchsorted(start, start)  # where the spans of the same start begin
    before = np.where(group_first > 0, reach[group_first - 1], -1)
    longest_here = np.maximum.reduceat(end, np.unique(group_first))[np.unique(group_first, return_inverse=True)[1]]
    return (before >= end) | (longest_here > end)


def _negated(words: Ints, start: Ints, is_negator: Bools, is_skip: Bools) -> Bools:
    """Which starts follow a negator, with at most three words of `skip` between."""
    before = start - 1
    negated = is_negator[words[before]]
    for _ in range(3):
        skipping = is_skip[words[before]]
        if not skipping.any():
            break
        before = np.where(skipping, before - 1, before)  # the separator before the first text ends every walk
        negated |= is_negator[words[before]]
    return negated
