"""JSON and YAML files, read as plain values; one that is damaged or something else is told by its path."""

import json
from pathlib import Path
from typing import Any

import yaml

from balance.errors import UserError


def read_mapping(path: Path, what: str, remedy: str) -> dict[str, Any]:
    """Read a JSON or YAML file that holds keys and values.

    Args:
        path: the file; YAML by its suffix, JSON otherwise.
        what: the file should be, for the message, such as "a run's configuration".
        remedy: what a user can do, such as "restore it".

    Raises:
        UserError: it can't be read, or holds something else.
        OSError: the file can't be opened.
    """
    content = path.read_bytes()
    try:
        text = content.decode("utf-8-sig")
        found = yaml.safe_load(text) if path.suffix in (".yaml", ".yml") else json.loads(text)
    except (ValueError, yaml.YAMLError, RecursionError) as error:  # of which UnicodeDecodeError is a kind
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(f"{path} is damaged, or is not {what} ({reason}); {remedy}.") from error
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


def _kind(value: Any) -> str:
    names = {"NoneType": "nothing", "list": "a list", "str": "a text", "int": "a number", "float": "a number"}
    return names.get(type(value).__name__, f"a {type(value).__name__}")
