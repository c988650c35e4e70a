"""What is shown in a terminal: names of concepts, files and models are text, and neither markup nor commands to it."""

import re
from typing import Any

from rich.console import Console
from rich.table import Table as RichTable

# Control characters but for line ends and tabs; marks that turn the direction of writing around; lone surrogates.
_UNSHOWN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def visible(text: str) -> str:
    r"""Text whose control characters are written out, as in `\x1b[31mred`, so that a terminal does not obey them."""
    return _UNSHOWN.sub(lambda found: found[0].encode("unicode_escape", "backslashreplace").decode("ascii"), text)


class _Terminal(Console):
    def print(self, *things: Any, **options: Any) -> None:
        super().print(*(visible(thing) if isinstance(thing, str) else thing for thing in things), **options)


def say(text: str) -> None:
    """Print text that may quote names of others."""
    print(visible(text), flush=True)


def terminal(**options: Any) -> Console:
    """A console that takes text as it is: no `[markup]`, no `:emoji:`, no colours for numbers.

    Args:
        options: of rich's Console.
    """
    return _Terminal(**options, highlight=False, markup=False, emoji=False)


class Table(RichTable):
    """A table of text, in which control characters are written out; to be printed by `terminal()`."""

    def __init__(self, *headers: str, title: str | None = None, **options: Any) -> None:
        super().__init__(*map(visible, headers), title=None if title is None else visible(title), **options)

    def add_column(self, header: str = "", *more: Any, **options: Any) -> None:  # type: ignore[override]
        """Add a column."""
        super().add_column(visible(header), *more, **options)

    def add_row(self, *cells: str, **options: Any) -> None:  # type: ignore[override]
        """Add a row."""
        super().add_row(*map(visible, cells), **options)
