"""Word lists: the YAML files that say which words of a caption name which value of an attribute, or which concept.

A file looks like this (every key but the first and `values` may be left out):

    attribute: gender             # or `concepts: occupations`
    positive: woman               # one column of this name; without it one column a value
    values:
      woman:
        words: [woman, lady]      # plurals are added
        fixed: [female]           # as it stands
        names: [baker]            # may also be a surname: see `Matcher`
        weak: [she, her]          # counts only where none of `unless` is in the caption
        loose: [young {person}]   # with any of `between` between its words
      man: [man, guy]             # short for `words`
    unless: [dog]
    exclude: [man made]           # says nothing, and hides shorter terms inside it
    sets: {person: [woman, man]}  # `{person}` in a phrase stands for each of them
    proxy: false                  # concepts that only stand in for an attribute
    negators: [no, without]       # a term after one of these, with `skip` words between, says nothing
    skip: [a, the]
    determiners: [a, the]         # a capitalised word of `names` counts after one of these
    titles: [mr, dr]              # and never after one of these
    between: [happy, tall]        # so many of these may stand between the words of a value's `loose` phrases
    uses, cues, rules             # contexts in which a term says nothing: see `cues.py`
"""

import itertools
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from balance.common.structure import expecting
from balance.common.yaml_files import read_yaml
from balance.errors import UserError
from balance.labels.cues import Rule, read_rules
from balance.labels.tokens import tokenize

WORDS_FOLDER = Path(__file__).resolve().parent / "word_lists"

NEGATORS = (
    "no",
    "none",
    "not",
    "without",
    "never",
    "neither",
    "nor",
    "non",
    "isn",
    "aren",
    "wasn",
    "weren",
    "lacks",
    "lacking",
)
SKIP = ("a", "an", "any", "the", "of", "t", "one", "single", "other", "more", "real", "visible")
DETERMINERS = ("a", "an", "the", "this", "that", "these", "those", "his", "her", "my", "our", "their", "your", "its",
"one",
               "two", "three", "four", "some", "many", "several", "another", "each", "every", "of", "as", "by", "and",
               "with",
               "young", "old", "female", "male", "professional", "little")  # fmt: skip
TITLES = ("mr", "mrs", "ms", "miss", "dr", "sir", "saint", "st", "san", "lord", "prof", "professor")

_TOP_KEYS = {"attribute", "concepts", "positive", "values", "unless", "exclude", "sets", "proxy", "about", "source"}
_TOP_KEYS |= {"negators", "skip", "determiners", "titles", "language", "between", "uses", "cues", "rules"}
_VALUE_KEYS = {"words", "fixed", "names", "weak", "loose"}
_IRREGULAR = {
    "person": "people", "child": "children", "mouse": "mice", "goose": "geese", "foot": "feet", "tooth": "teeth",
    "wife": "wives", "housewife": "housewives", "midwife": "midwives", "knife": "knives", "shelf": "shelves",
    "bookshelf": "bookshelves", "leaf": "leaves", "loaf": "loaves", "scarf": "scarves", "elf": "elves",
    "human": "humans", "german": "germans", "roman": "romans", "sheep": "sheep", "fish": "fish", "deer": "deer",
    "aircraft": "aircraft", "police": "police", "staff": "staff",
}  # fmt: skip


@dataclass(frozen=True)
class Term:
    """One spelling of a value: its tokens, which value, and the rules that it is under."""

    tokens: tuple[str, ...]
    value: str
    name: bool = False
    weak: bool = False
    loose: bool = False


@dataclass(frozen=True)
class WordList:
    """A checked word list with plurals and sets written out.

    Attributes:
        title: the attribute's name, or that of the concept list.
        is_attribute: whether its values fill `s` (else `y`).
        positive: the value whose name a single binary column bears, or None.
        values: the names of the values, in the order of the file.
        proxy: whether its concepts are proxies.
        terms: all spellings of all values.
        exclude: phrases that say nothing.
        unless: terms in whose company the weak ones don't count.
        between: folded words that may stand between those of loose terms.
        rules: contexts in which terms say nothing.
        negators, skip, determiners, titles: folded single words.
    """

    title: str
    is_attribute: bool
    positive: str | None
    values: tuple[str, ...]
    proxy: bool
    terms: tuple[Term, ...]
    exclude: tuple[tuple[str, ...], ...] = ()
    unless: tuple[tuple[str, ...], ...] = ()
    between: frozenset[str] = frozenset()
    rules: tuple[Rule, ...] = ()
    negators: frozenset[str] = field(default=frozenset(NEGATORS))
    skip: frozenset[str] = field(default=frozenset(SKIP))
    determiners: frozenset[str] = field(default=frozenset(DETERMINERS))
    titles: frozenset[str] = field(default=frozenset(TITLES))

    def describe(self) -> dict[str, Any]:
        """All that decides what the list finds, as plain data in a fixed order: what fingerprints are made of."""
        return {
            "title": self.title, "attribute": self.is_attribute, "positive": self.positive, "values": list(self.values),
            "proxy": self.proxy,
            "terms": sorted([" ".join(t.tokens), t.value, t.name, t.weak, t.loose] for t in self.terms),
            "between": sorted(self.between), "rules": [rule.describe() for rule in self.rules],
            "exclude": sorted(map(" ".join, self.exclude)), "unless": sorted(map(" ".join, self.unless)),
            "negators": sorted(self.negators), "skip": sorted(self.skip),
            "determiners": sorted(self.determiners), "titles": sorted(self.titles),
        }  # fmt: skip


def plural(phrase: str) -> str:
    """The English plural of a phrase's last word: rules, and a table of the irregular ones that captions use."""
    head, _, word = phrase.rpartition(" ")
    lower = word.lower()
    if word.endswith("}"):
        return phrase  # a set lists the forms it wants
    if lower in _IRREGULAR:
        many = _IRREGULAR[lower]
    elif lower.endswith("man"):
        many = lower[:-2] + "en"
    elif re.search(r"[^aeiou]y$", lower):
        many = lower[:-1] + "ies"
    elif re.search(r"(s|x|z|ch|sh)$", lower):
        many = lower + "es"
    else:
        many = lower + "s"
    return f"{head} {many}".strip()


def named_file(name: str) -> Path:
    """The file of a word list: a name in `balance/labels/word_lists`, or a path that ends in .yaml.

    Raises:
        UserError: there is no such file.
    """
    path = Path(name)
    if path.suffix not in (".yaml", ".yml"):
        path = WORDS_FOLDER / f"{name}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in WORDS_FOLDER.glob("*.yaml")))
        raise UserError(
            f"There is no word list {name!r} ({path}); built in are: {known}; or give a path that ends in .yaml."
        )
    return path


def load_word_list(name: str) -> WordList:
    """Read a word list by name or path.

    Raises:
        UserError: no such file, no YAML, or a list that breaks the rules of the format.
    """
    path = named_file(name)
    try:
        spec = read_yaml(path)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"The word list {path} is not readable YAML: {' '.join(str(error).split())}.") from error
    with expecting(f"The word list {path}"):
        return make_word_list(spec, str(path))


def make_word_list(spec: Mapping[str, Any], where: str) -> WordList:
    """Check a word list as read from YAML, and write out its sets and plurals.

    Args:
        spec: the mapping described at the top of this file.
        where: named in messages.

    Raises:
        UserError: the list breaks a rule of the format.
    """
    if not isinstance(spec, Mapping) or ("attribute" in spec) == ("concepts" in spec):
        raise UserError(f"The word list {where} must have either 'attribute:' or 'concepts:' at its top.")
    if unknown := set(spec) - _TOP_KEYS:
        raise UserError(
            f"The word list {where} has the unknown key {min(unknown)!r}; known are {', '.join(sorted(_TOP_KEYS))}."
        )
    values = spec.get("values")
    if not isinstance(values, Mapping) or not values:
        raise UserError(f"The word list {where} needs 'values:', a mapping from each value's name to its words.")
    positive = spec.get("positive")
    if positive is not None and ("concepts" in spec or positive not in values or len(values) != 2):
        raise UserError(f"The word list {where}: 'positive' must be one of exactly two values of an attribute.")
    sets = spec.get("sets") or {}
    terms = [term for value, entry in values.items() for term in _value_terms(str(value), entry, sets, where)]
    grammar = {
        key: frozenset(token for word in spec[key] for token in tokenize(_text(word, where)))
        for key in ("negators", "skip", "determiners", "titles", "between")
        if key in spec
    }
    rules = read_rules(spec, {t.tokens for t in terms}, lambda listed: _phrases(listed, sets, where), plural, where)
    return WordList(
        title=str(spec.get("attribute", spec.get("concepts"))),
        is_attribute="attribute" in spec,
        positive=None if positive is None else str(positive),
        values=tuple(map(str, values)),
        proxy=bool(spec.get("proxy", False)),
        terms=tuple(dict.fromkeys(terms)),
        exclude=tuple(_phrases(spec.get("exclude") or [], sets, where)),
        rules=rules,
        unless=tuple(_phrases([*(spec.get("unless") or []), *map(plural, spec.get("unless") or [])], sets, where)),
        **grammar,
    )


def _value_terms(value: str, entry: Any, sets: Mapping[str, list[str]], where: str) -> Iterable[Term]:
    groups = {"words": entry} if isinstance(entry, list) else entry
    if not isinstance(groups, Mapping) or set(groups) - _VALUE_KEYS or not any(groups.values()):
        raise UserError(
            f"The word list {where}: value {value!r} needs a list of words, or a mapping with {sorted(_VALUE_KEYS)}."
        )
    for kind, phrases in groups.items():
        written = list(phrases)
        if kind in ("words", "names"):
            written += [plural(_text(phrase, where)) for phrase in phrases]
        for tokens in _phrases(written, sets, where):
            yield Term(tokens, value, name=kind == "names", weak=kind == "weak", loose=kind == "loose")


def _phrases(phrases: Iterable[Any], sets: Mapping[str, list[str]], where: str) -> Iterable[tuple[str, ...]]:
    """Tokens of each phrase, once for each way to fill its {sets}."""
    for phrase in phrases:
        parts = re.split(r"\{(\w+)\}", _text(phrase, where))
        if missing := [name for name in parts[1::2] if name not in sets]:
            raise UserError(
                f"The word list {where}: {phrase!r} names the set {missing[0]!r}, which 'sets:' does not have."
            )
        choices = [sets[part] if i % 2 else [part] for i, part in enumerate(parts)]
        for filled in itertools.product(*choices):
            tokens = tuple(tokenize("".join(map(str, filled))))
            if not tokens:
                raise UserError(f"The word list {where}: {phrase!r} holds no letter, digit or emoji.")
            yield tokens


def _text(word: Any, where: str) -> str:
    # YAML reads no, off and 1 as other things than words; a list that silently lost its "no" would be hard to find.
    if not isinstance(word, str):
        raise UserError(f"The word list {where}: {word!r} is no text; put it in quotes.")
    return word
