"""The values that a configuration key may take: declared beside the key, and checked before anything starts."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, fields, is_dataclass
from difflib import get_close_matches
from typing import Any

from balance.errors import UserError


@dataclass(frozen=True)
class Range:
    """An interval of finite numbers."""

    low: float
    high: float
    open_low: bool = False
    open_high: bool = False

    def __contains__(self, value: Any) -> bool:
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            return False
        above = value > self.low if self.open_low else value >= self.low
        return above and (value < self.high if self.open_high else value <= self.high)

    def __str__(self) -> str:
        low = f"above {self.low:,}" if self.open_low else f"at least {self.low:,}"
        return f"{low} and {'below' if self.open_high else 'at most'} {self.high:,}"

    def hint(self, value: Any) -> str:
        """Nothing: an interval says it all."""
        return ""


@dataclass(frozen=True)
class Choice:
    """Some words."""

    words: tuple[str, ...]

    def __contains__(self, value: Any) -> bool:
        return value in self.words

    def __str__(self) -> str:
        return f"{', '.join(self.words[:-1])} or {self.words[-1]}"

    def hint(self, value: Any) -> str:
        """The word that was meant, where one is near."""
        near = get_close_matches(str(value), self.words, n=1)
        return f"; did you mean {near[0]}?" if near else ""


def number(default: Any, low: float, high: float, above: bool = False, below: bool = False) -> Any:
    """A field whose value, or whose values if it is a tuple, lie between two numbers; see `between`."""
    return field(default=default, metadata=between(low, high, above, below))


def between(low: float, high: float, above: bool = False, below: bool = False) -> dict[str, Any]:
    """The metadata of a field whose value, or whose values if it is a mapping, lie between two numbers.

    Args:
        low: the smallest value.
        high: the largest value.
        above: whether values must be above `low`, rather than at least that.
        below: whether values must be below `high`, rather than at most that.
    """
    return {"allowed": Range(low, high, above, below)}


def word(default: str, *others: str) -> Any:
    """A field whose value is one of some words."""
    return field(default=default, metadata={"allowed": Choice((default, *others))})


def check_values(config: Any, prefix: str = "") -> None:
    """Check all values of a configuration against what their fields allow.

    Args:
        config: a dataclass whose fields were made by `number`, `between` or `word`, and any others.
        prefix: of its keys.

    Raises:
        UserError: a value that is not allowed.
    """
    for one in fields(config):
        value, key = getattr(config, one.name), f"{prefix}{one.name}"
        if is_dataclass(value):
            check_values(value, f"{key}.")
        elif "allowed" in one.metadata and value is not None:
            for inner, part in _parts(key, value):
                _check(inner, part, one.metadata["allowed"], str(one.type))


def _parts(key: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        yield from ((f"{key}.{name}", part) for name, part in value.items())
    elif isinstance(value, tuple | list):
        yield from ((key, part) for part in value)
    else:
        yield key, value


def _check(key: str, value: Any, allowed: Range | Choice, kind: str) -> None:
    whole = isinstance(allowed, Range) and "float" not in kind and not isinstance(value, int)
    if value not in allowed or whole:
        what = f"a whole number, {allowed}" if whole else str(allowed)
        null = ", or null" if "None" in kind else ""
        raise UserError(f"{key}={value} must be {what}{null}{allowed.hint(value)}.")
