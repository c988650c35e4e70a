"""Find the terms of all word lists in many captions at once.

Captions become one array of word ids (`tokens.py`); a trie over ids is then walked from all positions together, one
step per length of phrase, so that the cost for each caption is that of cutting it into words.

What counts:
- a term counts unless it lies inside a longer term or an excluded phrase of the same list ("hot dog", "man made");
- not after a negator ("no man", "without any of ...": only words of `skip` may stand between);
- a capitalised term of `names` ("Baker") counts only after a determiner ("a Baker"), or as the first word when no other
  capitalised word follows; never after a title ("Dr. Baker"). Lower case and ALL CAPITALS count as usual;
- a weak term counts only where the caption holds none of the list's `unless` terms ("a dog and his bone");
- a term counts only where no rule of the list makes it weak by what stands around it ("Women Leather Boots Sale").
"""

import itertools
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from balance.labels.contexts import Contexts, Reading
from balance.labels.tokens import CAPITALISED, LOWER, SEPARATOR_ID, Vocabulary
from balance.labels.words import WordList

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

_EXCLUDED, _UNLESS = -1, -2


@dataclass(frozen=True)
class Hits:
    """Mentions found: row i says that value `value[i]` is mentioned once in text `text[i]`, by the phrase `term[i]`."""

    text: Ints
    value: Ints
    term: Ints


class Matcher:
    """All word lists, ready to be looked for.

    Attributes:
        values: (list index, value name) for each value id that `Hits` speaks of.
        phrases: the words of each term that `Hits` speaks of.
    """

    def __init__(self, lists: Sequence[WordList]) -> None:
        self.values: list[tuple[int, str]] = [(i, value) for i, words in enumerate(lists) for value in words.values]
        self._value_ids = {value: i for i, value in enumerate(self.values)}
        self._vocabulary = Vocabulary()
        self._entries: list[
            tuple[int, int, int, bool, bool, int, int]
        ] = []  # node, list, value, name, weak, rules, asked
        self._children: dict[tuple[int, int], int] = {}
        self._n_nodes = 1
        self._phrase_of: dict[int, str] = {}
        self._n_lists = len(lists)
        self._contexts = Contexts(lists, self._vocabulary)
        for i, words in enumerate(lists):
            for term in words.terms:
                rules = self._contexts.rule_bits(i, term.tokens)
                self._add(term.tokens, i, self._value_ids[i, term.value], term.name, term.weak, rules)
            for tokens in words.exclude:
                self._add(tokens, i, _EXCLUDED)
            for tokens in words.unless:
                self._add(tokens, i, _UNLESS)
        for words in lists:
            self._loosen([term.tokens for term in words.terms if term.loose], words.between)
        grammar = [self._word_flags(words) for words in lists]
        self._freeze()
        self._contexts.freeze(self._width)
        self._grammar = [tuple(self._table(words) for words in kinds) for kinds in grammar]

    def _add(
        self, tokens: tuple[str, ...], list_: int, value: int, name: bool = False, weak: bool = False, rules: int = 0
    ) -> None:
        node = 0
        for token in tokens:
            key = (node, self._vocabulary.add(token))
            node = self._children.setdefault(key, self._n_nodes)
            self._n_nodes += node == self._n_nodes
        self._phrase_of[node] = " ".join(tokens)
        self._entries.append((node, list_, value, name, weak, rules, self._contexts.asked(list_, rules)))

    def _loosen(self, phrases: Sequence[tuple[str, ...]], between: Collection[str]) -> None:
        """Let words of `between` stand between the words of phrases: detours in the trie that come back to its path.

        A word that goes on to some other phrase stays on that path.
        """
        words = sorted(self._vocabulary.add(token) for token in between)
        detours: dict[int, int] = {}
        for tokens in phrases if words else ():
            node = 0
            for token, following in itertools.pairwise([self._vocabulary.add(token) for token in tokens]):
                node = self._children[node, token]
                detour = detours.setdefault(node, self._n_nodes)
                self._n_nodes += detour == self._n_nodes
                self._children[detour, following] = self._children[node, following]
        for node, detour in detours.items():
            for word in words:
                self._children.setdefault((node, word), detour)
                self._children.setdefault((detour, word), detour)

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
        self._inner = np.zeros(self._width, bool)
        self._goes_on = np.zeros(self._n_nodes, bool)
        for (node, word), child in self._children.items():
            if node == 0:
                self._first[word] = child
            else:
                self._inner[word] = self._goes_on[node] = True
        entries = np.array(sorted(self._entries), np.int64).reshape(-1, 7)
        nodes = np.arange(self._n_nodes + 1)
        self._entry_start = np.searchsorted(entries[:, 0], nodes)
        self._entry_list, self._entry_value = entries[:, 1], entries[:, 2]
        self._entry_name, self._entry_weak = entries[:, 3].astype(bool), entries[:, 4].astype(bool)
        self.phrases = [self._phrase_of[node] for node in entries[:, 0].tolist()]
        self._entry_rules, self._entry_asked = entries[:, 5], entries[:, 6]

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
            return Hits(*(np.zeros(0, np.int64),) * 3)
        codes, order = self._encode(texts)
        words, case = codes >> 2, codes & 3
        capitalised = case == CAPITALISED
        start, end, entry = self._walk(words)
        separators = np.flatnonzero(words == SEPARATOR_ID)
        place = np.cumsum(words == SEPARATOR_ID)[start] - 1
        reading = self._contexts.read(words, case != LOWER, separators)
        found: list[Hits] = []
        lists = self._entry_list[entry]
        for list_ in range(self._n_lists):
            of_list = np.flatnonzero(lists == list_)
            if len(of_list):
                hits = self._of_one_list(list_, words, capitalised, reading, place, start, end, entry, of_list)
                found.append(Hits(order[hits.text], hits.value, hits.term))
        if not found:
            return Hits(*(np.zeros(0, np.int64),) * 3)
        columns = ([hits.text for hits in found], [hits.value for hits in found], [hits.term for hits in found])
        return Hits(*map(np.concatenate, columns))

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
            # Only a word that goes on some phrase is worth a search: the separator at the end is none.
            after = at + length
            going = self._goes_on[node] & self._inner[words[after]]
            at, node, after = at[going], node[going], after[going]
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
        reading: Reading,
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
        if self._contexts.has_rules(list_):
            rows = np.flatnonzero(keep)
            rules, asked = self._entry_rules[entry[rows]], self._entry_asked[entry[rows]]
            keep[rows] = ~reading.weak(list_, rules, asked, start[rows], end[rows], text[rows])
        return Hits(text[keep], value[keep], entry[keep])


def _inside_longer(start: Ints, end: Ints) -> Bools:
    """Which spans, ordered by start, lie inside a longer one."""
    if not len(start):
        return np.zeros(0, bool)
    reach = np.maximum.accumulate(end)  # furthest end of any span up to this one
    opens = np.concatenate([[True], start[1:] != start[:-1]])  # spans of the same start stand together
    first = np.flatnonzero(opens)
    group = np.cumsum(opens) - 1
    before = np.concatenate([[-1], reach[first[1:] - 1]])[group]
    return (before >= end) | (np.maximum.reduceat(end, first)[group] > end)


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
