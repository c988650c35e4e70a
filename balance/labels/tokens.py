"""Captions to numbers: many captions at once are cut into words, then one look-up per word.

A word is a run of letters, digits and combining marks; an apostrophe, a hyphen, an underscore or punctuation ends it.
Scripts that put no spaces between words (Han, Kana, Thai, Lao, Khmer, Burmese) give one token a character, and so does
an emoji: a term of several characters is then a phrase like any other.
"""

import unicodedata
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

SEPARATOR = "\x00"
"""Stands between captions: ASCII, so that a batch of ASCII captions stays one byte a character, and no white space."""

LOWER, CAPITALISED, UPPER = 0, 1, 2
"""How a word is written: `Baker` is CAPITALISED, `BAKER` UPPER; all else, scripts without case included, is LOWER."""

OTHER_ID, SEPARATOR_ID = 0, 1
"""Ids of words that no list names, and of the separator."""

_ALONE = (
    (0x0E00, 0x0EFF),
    (0x1000, 0x109F),
    (0x1780, 0x17FF),
    (0x3040, 0x30FF),
    (0x3400, 0x4DBF),
    (0x4E00, 0x9FFF),
    (0xF900, 0xFAFF),
    (0x20000, 0x3134F),  # scripts without spaces
    (0x2600, 0x27BF),
    (0x1F000, 0x1F3FA),
    (0x1F400, 0x1FAFF),
)  # emoji; 1F3FB to 1F3FF only tint the one before
_DROPPED = frozenset((0x00AD, 0xFE0E, 0xFE0F))  # soft hyphen, variation selectors
_VOCABULARY_LIMIT = 2_000_000
"""Spellings remembered; web text never stops bringing new ones."""


class _Breaks(dict[int, str | None]):
    """What each character becomes before text is split at spaces; filled as characters are met."""

    def __missing__(self, code: int) -> str | None:
        character = chr(code)
        alone = any(first <= code <= last for first, last in _ALONE)
        mark = unicodedata.category(character)[0] == "M"
        replacement: str | None = " "
        if character == SEPARATOR:
            replacement = character
        elif code in _DROPPED:
            replacement = None
        elif alone and (mark or character.isalnum() or unicodedata.category(character) == "So"):
            replacement = f" {character} "
        elif not alone and (mark or character.isalnum()):
            replacement = character
        self[code] = replacement
        return replacement


_BREAKS = _Breaks()
_ASCII_BREAKS = {code: _BREAKS[code] for code in range(128)}  # a plain table keeps str.translate on its fast path


def split(text: str) -> list[str]:
    """The tokens of a text as they are written, accents composed and soft hyphens dropped."""
    if text.isascii():
        return text.translate(_ASCII_BREAKS).split()
    return unicodedata.normalize("NFC", text).translate(_BREAKS).split()


def fold(token: str) -> str:
    """The form in which words are compared: compatibility forms resolved, case folded."""
    return unicodedata.normalize("NFKC", token).casefold()


def tokenize(text: str) -> list[str]:
    """The folded tokens of one text, for word lists and for tests; captions go through `Vocabulary.encode`."""
    return [fold(token) for token in split(text.replace(SEPARATOR, " "))]


class Vocabulary(dict[str, int]):
    """Spelling to code: `id * 4 + case`, where id is `OTHER_ID` for words that no list names.

    Spellings are folded once, when first met; after that a word costs one look-up.
    """

    def __init__(self) -> None:
        super().__init__()
        self.ids: dict[str, int] = {}
        self[SEPARATOR] = SEPARATOR_ID * 4

    def add(self, token: str) -> int:
        """The id of a folded token, which is given one if it has none."""
        return self.ids.setdefault(token, len(self.ids) + SEPARATOR_ID + 1)

    @property
    def size(self) -> int:
        """One more than the largest id."""
        return len(self.ids) + SEPARATOR_ID + 1

    def __missing__(self, spelling: str) -> int:
        if spelling[:1].isupper():
            case = UPPER if len(spelling) > 1 and spelling.isupper() else CAPITALISED
        else:
            case = LOWER
        code = self.ids.get(fold(spelling), OTHER_ID) * 4 + case
        if len(self) < _VOCABULARY_LIMIT:
            self[spelling] = code
        return code

    def encode(self, texts: Sequence[str]) -> npt.NDArray[np.int64]:
        """Codes of the tokens of all texts in one array, a separator before the first, between, and after the last.

        Args:
            texts: n captions.

        Returns:
            (tokens + n + 1,) int64.
        """
        joined = f" {SEPARATOR} ".join(texts)
        if joined.count(SEPARATOR) != len(texts) - 1:
            joined = f" {SEPARATOR} ".join(text.replace(SEPARATOR, " ") for text in texts)
        tokens = split(joined)
        codes = np.empty(len(tokens) + 2, np.int64)
        codes[0] = codes[-1] = SEPARATOR_ID * 4
        codes[1:-1] = np.fromiter(map(self.__getitem__, tokens), np.int64, len(tokens))
        return codes
