"""Which mentions say nothing in their context: the rules of all word lists (`cues.py`), for many captions at once.

Each distinct cue is a bit. A word has the bits of the cues that name it, a caption those of all its words; a mention's
own bits are those of the cues that really stand in reach of it, and a rule is two masks on them.
"""

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from balance.errors import UserError
from balance.labels.cues import FURTHEST, Cue, Rule
from balance.labels.tokens import SEPARATOR_ID, Vocabulary
from balance.labels.words import WordList

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

_MOST = 62
"""Distinct cues, and rules of one list: bits of a signed word that stay clear of the sign."""


class Contexts:
    """The rules of all lists, ready to be applied.

    Add all words before `freeze`, since the tables have one row a word.
    """

    def __init__(self, lists: Sequence[WordList], vocabulary: Vocabulary) -> None:
        cues = dict.fromkeys(cue for words in lists for rule in words.rules for cue in (*rule.with_, *rule.unless))
        if len(cues) > _MOST or any(len(words.rules) > _MOST for words in lists):
            raise UserError(
                f"The word lists use more than {_MOST} distinct cues, or a list has more rules; merge some."
            )
        self._bit = {cue: 1 << i for i, cue in enumerate(cues)}
        self._lists = list(lists)
        self._words = {cue: [vocabulary.add(word) for word in sorted(cue.words)] for cue in cues}
        self._rules = [[self._masks(rule) for rule in words.rules] for words in lists]

    def _masks(self, rule: Rule) -> tuple[int, int, bool]:
        with_, unless = (sum(self._bit[cue] for cue in cues) for cues in (rule.with_, rule.unless))
        return with_, unless, rule.capitalised

    def rule_bits(self, list_: int, tokens: tuple[str, ...]) -> int:
        """Which rules of a list a term is under, as bits."""
        return sum(1 << i for i, rule in enumerate(self._lists[list_].rules) if rule.applies(tokens))

    def freeze(self, n_words: int) -> None:
        """Make the tables for a vocabulary of so many ids."""
        self._of_word = np.zeros(n_words, np.int64)
        for cue, ids in self._words.items():
            self._of_word[ids] |= self._bit[cue]
        self._capitalised = self._sum(lambda cue: cue.capitalised)
        self._any_word = self._sum(lambda cue: not cue.words)
        self._anywhere = self._sum(lambda cue: cue.anywhere)
        distances = range(1, FURTHEST + 1)
        self._after = [self._sum(lambda cue, d=d: (cue.after or 0) >= d) for d in distances]  # type: ignore[misc]
        self._before = [self._sum(lambda cue, d=d: (cue.before or 0) >= d) for d in distances]  # type: ignore[misc]

    def masks(self, list_: int) -> list[tuple[int, int, bool]]:
        """For each rule of a list the cues of which one must be there, those that may not, and whether case matters."""
        return self._rules[list_]

    def asked(self, list_: int, rules: int) -> int:
        """The cues of which one must be there for any of some rules, as bits, to hold."""
        asked = 0
        for i, (with_, _, _) in enumerate(self._rules[list_]):
            asked |= with_ if rules >> i & 1 else 0
        return asked

    def _sum(self, chosen: Callable[[Cue], bool]) -> int:
        return sum(bit for cue, bit in self._bit.items() if chosen(cue))

    def has_rules(self, list_: int) -> bool:
        """Whether anything of a list can be weak by context."""
        return bool(self._rules[list_])

    def read(self, words: Ints, cased: Bools, separators: Ints) -> "Reading":
        """Look at the words of many captions, once for all lists.

        Args:
            words: ids, separators between the captions, before the first and after the last.
            cased: whether each is written with a capital.
            separators: where the separators stand.
        """
        bits = self._of_word[words]
        if self._capitalised:
            bits &= np.where(cased, -1, ~self._capitalised)
            bits |= np.where(cased, self._any_word, 0)
        bits[separators] = 0
        return Reading(self, words, cased, bits, np.bitwise_or.reduceat(bits, separators))


class Reading:
    """The cues of a batch of captions."""

    def __init__(self, contexts: Contexts, words: Ints, cased: Bools, bits: Ints, of_text: Ints) -> None:
        self._contexts, self._words, self._cased, self._bits, self._of_text = contexts, words, cased, bits, of_text

    def weak(self, list_: int, rules: Ints, asked: Ints, start: Ints, end: Ints, text: Ints) -> Bools:
        """Which mentions of a list say nothing where they stand.

        Args:
            list_: index of the list.
            rules: which of its rules each of n mentions is under, as bits.
            asked: `Contexts.asked` of those.
            start: the first word of each.
            end: one past its last.
            text: which caption, in the order of `words`.

        Returns:
            (n,) bool.
        """
        contexts, weak = self._contexts, np.zeros(len(start), bool)
        # In most captions no rule can hold: look closer only at what the caption's words, then those in reach, allow.
        rows = np.flatnonzero(self._of_text[text] & asked)
        bits = self._in_reach(start[rows], end[rows], text[rows])
        near = bits & asked[rows] != 0
        rows, bits = rows[near], bits[near]
        if not len(rows):
            return weak
        rules, written = rules[rows], self._cased[start[rows]]
        for i, (with_, unless, capitalised) in enumerate(contexts.masks(list_)):
            holds = (rules >> i & 1 == 1) & (bits & with_ != 0) & (bits & unless == 0)
            weak[rows] |= holds & written if capitalised else holds
        return weak

    def _in_reach(self, start: Ints, end: Ints, text: Ints) -> Ints:
        """The cues that stand in reach of mentions, as bits."""
        bits: Ints = self._of_text[text] & self._contexts._anywhere
        for masks, place, step in ((self._contexts._before, start - 1, -1), (self._contexts._after, end, 1)):
            rows, at = np.arange(len(start)), place
            for mask in masks:
                inside = self._words[at] != SEPARATOR_ID
                rows, at = rows[inside], at[inside]
                if not mask or not len(rows):
                    break
                bits[rows] |= self._bits[at] & mask
                at = at + step
        return bits
