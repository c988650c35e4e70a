"""Cues and rules of word lists: which words around a term say that it speaks of no person.

The keys of a word list that this file reads:

    uses: [web]                                       # cues of balance/labels/word_lists/cues/web.yaml
    cues:
      product: {words: [shoe, dress], near: 8}        # plurals are added; at most 8 words from the term, either side
      article: {fixed: [a, the], before: 2}           # one of the two words before it
      person: {verbs: [smile, sit]}                   # smiles, smiled, smiling; anywhere in the caption
      name: {capitalised: true, after: 1}             # any word with a capital, right after the term
    rules:                                            # a term says nothing where all of a rule holds
      - terms: [woman, "{group}"]                     # spellings of this list, or all
        except: [actress]                             # not these
        with: [product]                               # one of these cues stands there
        unless: [article, person]                     # and none of these
        written: capitalised                          # and the term is written with a capital
"""

import functools
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from balance.common.yaml_files import read_yaml
from balance.errors import UserError
from balance.labels.tokens import tokenize

CUES_FOLDER = Path(__file__).resolve().parent / "word_lists" / "cues"
FURTHEST = 12
"""Most words between a term and a cue that is not looked for in the whole caption."""

_CUE_KEYS = {"words", "fixed", "verbs", "capitalised", "before", "after", "near"}
_RULE_KEYS = {"terms", "except", "with", "unless", "written"}

Phrases = Callable[[Iterable[Any]], Iterable[tuple[str, ...]]]
"""Fills sets and cuts phrases into tokens."""


@dataclass(frozen=True)
class Cue:
    """Words that tell in what context a term stands.

    Attributes:
        words: folded single words; empty with `capitalised` for any word.
        capitalised: whether only words with a capital count.
        before, after: how many words before and after the term are looked at; both None for the whole caption.
    """

    words: frozenset[str]
    capitalised: bool = False
    before: int | None = None
    after: int | None = None

    @property
    def anywhere(self) -> bool:
        """Whether the whole caption is looked at."""
        return self.before is None and self.after is None


@dataclass(frozen=True)
class Rule:
    """Where terms say nothing.

    Attributes:
        terms: the tokens of the terms that it is about; None for all of the list.
        spared: terms that it is not about.
        with_: cues of which one must stand there.
        unless: cues of which none may.
        capitalised: whether only terms written with a capital are meant.
    """

    terms: frozenset[tuple[str, ...]] | None
    spared: frozenset[tuple[str, ...]]
    with_: tuple[Cue, ...]
    unless: tuple[Cue, ...]
    capitalised: bool

    def applies(self, tokens: tuple[str, ...]) -> bool:
        """Whether a term is under this rule."""
        return (self.terms is None or tokens in self.terms) and tokens not in self.spared

    def describe(self) -> list[Any]:
        """All that decides what it does, as plain data in a fixed order."""
        terms = None if self.terms is None else sorted(map(" ".join, self.terms))
        cues = [
            [[sorted(c.words), c.capitalised, c.before, c.after] for c in cues] for cues in (self.with_, self.unless)
        ]
        return [terms, sorted(map(" ".join, self.spared)), *cues, self.capitalised]


def read_rules(
    spec: Mapping[str, Any], known: set[tuple[str, ...]], phrases: Phrases, plural: Callable[[str], str], where: str
) -> tuple[Rule, ...]:
    """The rules of a word list.

    Args:
        spec: the list as read from YAML; `uses`, `cues` and `rules` of it are looked at.
        known: the tokens of the list's terms, which `terms` must be among.
        phrases: fills the list's sets.
        plural: makes plurals of cues' `words`.
        where: named in messages.

    Raises:
        UserError: a cue or rule that breaks the format, a cue that no one declares, a term that the list does not have.
    """
    cues: dict[str, Cue] = {}
    for name in spec.get("uses") or []:
        cues |= _shared_cues(name, plural, where)
    cues |= {str(name): _cue(str(name), entry, plural, where) for name, entry in (spec.get("cues") or {}).items()}
    return tuple(_rule(entry, cues, known, phrases, where) for entry in spec.get("rules") or [])


@functools.cache
def _shared_cues(name: Any, plural: Callable[[str], str], where: str) -> dict[str, Cue]:
    path = CUES_FOLDER / f"{name}.yaml"
    if not path.is_file():
        there = ", ".join(sorted(p.stem for p in CUES_FOLDER.glob("*.yaml")))
        raise UserError(
            f"The word list {where}: 'uses' names the cues {name!r}, which are not there; built in: {there}."
        )
    entries = read_yaml(path)
    return {str(cue): _cue(str(cue), entry, plural, str(path)) for cue, entry in entries.items()}


def _cue(name: str, entry: Any, plural: Callable[[str], str], where: str) -> Cue:
    if not isinstance(entry, Mapping) or set(entry) - _CUE_KEYS:
        raise UserError(f"The word list {where}: the cue {name!r} needs a mapping with some of {sorted(_CUE_KEYS)}.")
    written = [*(entry.get("words") or []), *(entry.get("fixed") or []), *(entry.get("verbs") or [])]
    if wrong := [word for word in written if not isinstance(word, str) or len(tokenize(word)) != 1]:
        raise UserError(f"The word list {where}: the cue {name!r} holds {wrong[0]!r}, which is no single word in text.")
    forms = list(entry.get("fixed") or [])
    forms += [form for word in entry.get("words") or [] for form in (word, plural(word))]
    forms += [form for verb in entry.get("verbs") or [] for form in inflected(verb)]
    capitalised = bool(entry.get("capitalised", False))
    if not forms and not capitalised:
        raise UserError(f"The word list {where}: the cue {name!r} has no words.")
    reach = {key: entry[key] for key in ("before", "after", "near") if key in entry}
    if any(not isinstance(n, int) or not 0 < n <= FURTHEST for n in reach.values()) or (
        len(reach) > 1 and "near" in reach
    ):
        raise UserError(
            f"The word list {where}: the cue {name!r} needs 'before' and 'after', or 'near', of 1 to {FURTHEST} words; "
            "leave them out for the whole caption."
        )
    if capitalised and not reach:
        raise UserError(
            f"The word list {where}: the cue {name!r} is 'capitalised' and needs 'before', 'after' or 'near'."
        )
    near = reach.get("near")
    return Cue(
        frozenset(token for form in forms for token in tokenize(form)),
        capitalised,
        reach.get("before", near),
        reach.get("after", near),
    )


def inflected(verb: str) -> list[str]:
    """The -s, -ed and -ing forms of a regular verb; where a consonant may be doubled, both spellings."""
    many = f"{verb}es" if re.search(r"(s|x|z|ch|sh)$", verb) else re.sub(r"(?<=[^aeiou])y$", "ie", verb) + "s"
    stem = verb.removesuffix("e")
    past = re.sub(r"(?<=[^aeiou])y$", "i", stem)
    forms = [many, f"{past}ed", f"{stem}ing"]
    if re.search(r"[^aeiou][aeiou][bdglmnprt]$", verb):
        forms += [f"{verb}{verb[-1]}ed", f"{verb}{verb[-1]}ing"]
    return forms


def _rule(entry: Any, cues: Mapping[str, Cue], known: set[tuple[str, ...]], phrases: Phrases, where: str) -> Rule:
    if not isinstance(entry, Mapping) or set(entry) - _RULE_KEYS or not (entry.get("terms") and entry.get("with")):
        raise UserError(f"The word list {where}: a rule needs 'terms' and 'with'; it may have {sorted(_RULE_KEYS)}.")
    for name in [*(entry.get("with") or []), *(entry.get("unless") or [])]:
        if name not in cues:
            there = ", ".join(sorted(cues)) or "none"
            raise UserError(f"The word list {where}: a rule names the cue {name!r}; declared are: {there}.")
    if entry.get("written", "capitalised") != "capitalised":
        raise UserError(f"The word list {where}: 'written' can only be 'capitalised', not {entry['written']!r}.")
    chosen = [
        None if listed == "all" else frozenset(phrases(listed))
        for listed in (entry["terms"], entry.get("except") or [])
    ]
    for tokens in sorted((chosen[0] or frozenset()) | (chosen[1] or frozenset())):
        if tokens not in known:
            raise UserError(f"The word list {where}: a rule names {' '.join(tokens)!r}, which is no term of the list.")
    return Rule(
        chosen[0],
        chosen[1] or frozenset(),
        tuple(cues[name] for name in entry.get("with") or []),
        tuple(cues[name] for name in entry.get("unless") or []),
        "written" in entry,
    )
