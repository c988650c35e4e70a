"""The captions of a raw sample: one set of rules for training, labels, held-out data and evaluation sets.

Where a sample has captions in several places, the first place of these that holds one is taken: the JSON field
`captions`, the `.txt` member, the JSON fields `caption` and `text`. A place that is empty, blank or of an odd type
hides no other. A JSON field is a caption, or a list of captions; what is no text in the list is left out.

A caption is plain text: HTML entities are replaced by their characters, as open_clip's tokenizer does, so that labels
and tokens agree; byte order marks go; control characters and line breaks are blanks. The lines of a `.txt` are captions
of their own in CLIP_benchmark's layout alone, where `dataset_type.txt` says `retrieval`.
"""

import codecs
import html
import unicodedata
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


class UnreadableText(ValueError):
    """A `.txt` member that is neither UTF-8 nor UTF-16 with its mark, in a sample without another caption."""


def read_captions(raw: Mapping[str, Any], meta: Mapping[str, Any]) -> tuple[str, ...]:
    """All captions of a sample, none of them empty; see the rules above.

    Args:
        raw: the sample as it lies in the shard: `txt` and `__url__` are read.
        meta: its `.json` member, parsed.

    Raises:
        UnreadableText: there is no caption but a `.txt` whose bytes are no text.
    """
    found: tuple[str, ...] = ()
    if "captions" in meta and (found := _from_field(meta["captions"])):
        return found
    unreadable: UnicodeDecodeError | None = None
    if "txt" in raw:
        try:
            found = _from_text(raw["txt"], raw.get("__url__", ""))
        except UnicodeDecodeError as error:
            unreadable = error
        if found:
            return found
    found = _from_field(meta.get("caption")) or _from_field(meta.get("text"))
    if not found and unreadable is not None:
        raise UnreadableText("neither UTF-8 nor UTF-16 with a byte order mark") from unreadable
    return found


def clean_caption(text: str) -> str:
    """One line of plain text, possibly empty."""
    while "&" in text:  # entities of entities, too: tokenizers replace those as well
        plain = html.unescape(text)
        if plain == text:
            break
        text = plain
    if text.isprintable():  # nearly all: nothing but letters, signs and blanks
        return text.strip()
    text = text.replace("\ufeff", "").encode("utf-8", "replace").decode("utf-8")  # halves of surrogate pairs become ?
    return " ".join("".join(" " if unicodedata.category(letter) == "Cc" else letter for letter in text).split())


def _from_field(value: Any) -> tuple[str, ...]:
    if isinstance(value, str):
        value = [value]
    elif not isinstance(value, list):
        return ()
    return tuple([text for item in value if isinstance(item, str) and (text := clean_caption(item))])


def _from_text(content: bytes, url: str) -> tuple[str, ...]:
    try:
        text = content.decode()
    except UnicodeDecodeError:
        if not content.startswith(_UTF16):
            raise
        text = content.decode("utf-16")
    if "\n" in text and _lines_are_captions(url):
        return _from_field(text.splitlines())
    plain = clean_caption(text)
    return (plain,) if plain else ()


@lru_cache(maxsize=1 << 14)
def _lines_are_captions(url: str) -> bool:
    """Whether a shard lies in CLIP_benchmark's layout for retrieval, beside `dataset_type.txt` or a folder below it."""
    folder = Path(url.removeprefix("file:")).parent
    for place in (folder, folder.parent):
        try:
            said = (place / "dataset_type.txt").read_text(encoding="utf-8", errors="replace")
        except OSError:  # not there, or an address that is no path
            continue
        return said.strip().lower() == "retrieval"
    return False
