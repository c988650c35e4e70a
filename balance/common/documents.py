"""JSON and YAML files, read as plain values within bounds; one that is damaged or something else is told by its path.

They come from run folders, checkpoints and suites of others. No tag makes an object, and neither size, depth nor
aliases can use up the machine: a few lines of YAML aliases stand for billions of values once they are written out.
"""

import json
from pathlib import Path
from typing import Any

import yaml

from balance.errors import UserError

MOST_YAML = 1 << 20  # bytes; the reader takes seconds for each MiB
MOST_JSON = 1 << 28  # bytes
MOST_VALUES = 1_000_000  # with every alias written out
DEEPEST = 100


def read_document(path: Path, what: str, remedy: str) -> Any:
    """Read a JSON or YAML file.

    Args:
        path: the file; YAML by its suffix, JSON otherwise.
        what: the file should be, for the message, such as "a run's configuration".
        remedy: what a user can do, such as "restore it".

    Raises:
        UserError: it can't be read, or is larger, deeper or of more values than any honest file.
        OSError: the file can't be opened.
    """
    is_yaml = path.suffix in (".yaml", ".yml")
    size, most = path.stat().st_size, MOST_YAML if is_yaml else MOST_JSON
    if size > most:
        raise UserError(f"{path} has {size:,} bytes, more than {what} can have ({most:,}); {remedy}.")
    try:
        text = path.read_bytes().decode("utf-8-sig")
        found = yaml.safe_load(text) if is_yaml else json.loads(text)
        check_extent(found)
    except (ValueError, yaml.YAMLError, RecursionError) as error:  # of which UnicodeDecodeError is a kind
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(f"{path} is damaged, or is not {what} ({reason}); {remedy}.") from error
    return found


def read_mapping(path: Path, what: str, remedy: str) -> dict[str, Any]:
    """Read a JSON or YAML file that holds keys and values; see `read_document`.

    Raises:
        UserError: it can't be read, or holds something else.
        OSError: the file can't be opened.
    """
    found = read_document(path, what, remedy)
    if not isinstance(found, dict):
        raise UserError(f"{path} is not {what}: it holds {_kind(found)}, not keys and values; {remedy}.")
    return found


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a file of JSON lines; lines that a killed program left unfinished are left out.

    An empty list if there is no such file.
    """
    rows = []
    try:
        lines = path.read_bytes().splitlines()
    except FileNotFoundError:
        return []
    for line in lines:
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):  # of which UnicodeDecodeError is a kind
            continue
        if isinstance(row, dict):
            rows.append(row)
    return rows


def check_extent(value: Any) -> None:
    """Check that plain values are few and shallow once every alias is written out.

    Raises:
        ValueError: they are not, or one holds itself.
    """
    if _count(value, {}, 0) > MOST_VALUES:
        raise ValueError(f"it stands for more than {MOST_VALUES:,} values")


def _count(value: Any, known: dict[int, int], depth: int) -> int:
    """How many values there are, aliases written out: what was counted once is not walked again."""
    if not isinstance(value, dict | list):
        return 1
    if depth > DEEPEST:
        raise ValueError(f"it is nested more than {DEEPEST} deep, or holds itself")
    if id(value) not in known:
        parts = [*value.keys(), *value.values()] if isinstance(value, dict) else value
        known[id(value)] = 1 + sum(_count(part, known, depth + 1) for part in parts)
    return known[id(value)]


def _kind(value: Any) -> str:
    names = {"NoneType": "nothing", "list": "a list", "str": "a text", "int": "a number", "float": "a number"}
    return names.get(type(value).__name__, f"a {type(value).__name__}")
