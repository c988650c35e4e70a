"""Write docs/configuration.md from the configuration itself: the schema's comments and the groups' files.

`python scripts/config_reference.py` writes it; `--check` only says whether it is up to date (a test asks).
"""

import ast
import dataclasses
import re
from pathlib import Path
from typing import Any

import yaml
from omegaconf import MISSING

from balance.errors import UserError
from conf.app import schema
from conf.app.cli import groups
from conf.app.command import run_command

ROOT = Path(__file__).resolve().parent.parent
MAIN_CHOICE = {"attributes": "captions", "balance": "m4"}  # groups that the code which uses them checks
PAGE = ROOT / "docs" / "configuration.md"
HEAD = """# All configuration keys

<!-- Written by scripts/config_reference.py from conf/; do not edit. -->

Any key can be given on the command line as `key=value`, any group as `group=choice`; `python train.py --help` prints
all with their values. A key or choice that does not exist is answered with the nearest one, before anything starts.
Quote values that the shell would change. `key={a: 1}` replaces a mapping, `+key.name=value` adds to one, and `~key`
removes.
"""


def main(arguments: list[str]) -> int:
    """Write or check the page."""
    page = reference()
    if "--check" in arguments:
        if not PAGE.is_file() or PAGE.read_text(encoding="utf-8") != page:
            raise UserError("docs/configuration.md is out of date; run python scripts/config_reference.py.")
        return 0
    PAGE.write_text(page, encoding="utf-8")
    return 0


def reference() -> str:
    """The page as text."""
    comments = field_comments()
    fields = {field.name: field for field in dataclasses.fields(schema.Config)}
    sections = _sections(fields)
    parts = [HEAD, "## A run\n", _table("", schema.Config, comments, skip=sections)]
    choices = groups()
    for name in [*(name for name in fields if name in sections), "experiment"]:
        kind = _dataclass(fields[name]) if name in fields else None
        parts.append(f"## `{name}`\n")
        if kind is not None:
            parts += [f"{kind.__doc__}\n", _table(f"{name}.", kind, comments)]
        elif name in MAIN_CHOICE:
            parts.append(_yaml_table(name, MAIN_CHOICE[name]))
        if choices.get(name):
            parts.append(_choices_table(name, choices[name]))
    return "\n".join(part for part in parts if part)


def _choices_table(group: str, choices: list[str]) -> str:
    rows = [
        f"| `{group}={choice}` | {_changes(group, choice)} | {_about(ROOT / 'conf' / group / f'{choice}.yaml')} |"
        for choice in choices
    ]
    return "\n".join(["| choice | changes | |", "|---|---|---|", *rows]) + "\n"


def _changes(group: str, choice: str) -> str:
    """The single values that a choice sets."""
    if group in (*MAIN_CHOICE, "experiment"):
        return ""
    content = yaml.safe_load((ROOT / "conf" / group / f"{choice}.yaml").read_text(encoding="utf-8"))
    content.pop("name")
    plain = {key: value for key, value in content.items() if not isinstance(value, dict) and key != "defaults"}
    return _cell("<br>".join(f"`{key}: {_short(value)}`" for key, value in plain.items()))


def field_comments() -> dict[str, dict[str, str]]:
    """The comment beside each field of each dataclass of the schema: class -> field -> words."""
    source = Path(schema.__file__).read_text(encoding="utf-8")
    lines = source.splitlines()
    found: dict[str, dict[str, str]] = {}
    for node in ast.parse(source).body:
        if isinstance(node, ast.ClassDef):
            found[node.name] = {
                statement.target.id: _comment(lines[(statement.end_lineno or statement.lineno) - 1])
                for statement in node.body
                if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name)
            }
    return found


def _comment(line: str) -> str:
    match = re.search(r"\s#\s*(.*)$", line)
    return match[1].strip() if match else ""


def _sections(fields: dict[str, Any]) -> set[str]:
    """The keys that hold others."""
    return {name for name, field in fields.items() if _dataclass(field) or name in MAIN_CHOICE}


def _dataclass(field: Any) -> Any:
    return field.type if dataclasses.is_dataclass(field.type) else None


def _table(prefix: str, kind: Any, comments: dict[str, dict[str, str]], skip: set[str] | None = None) -> str:
    rows = ["| key | default | allowed | |", "|---|---|---|---|"]
    for field in dataclasses.fields(kind):
        if field.name in (skip or set()) or (prefix and field.name == "name" and not comments[kind.__name__]["name"]):
            continue
        if _dataclass(field):
            rows += _table(f"{prefix}{field.name}.", field.type, comments).splitlines()[2:]
            continue
        words = comments[kind.__name__][field.name]
        rows.append(
            f"| `{prefix}{field.name}` | {_default(field)} | {field.metadata.get('allowed', '')} | {_cell(words)} |"
        )
    return "\n".join(rows) + "\n"


def _default(field: Any) -> str:
    value = field.default
    if value is dataclasses.MISSING:
        value = field.default_factory()
    if value == MISSING:
        return "by the choice"
    return f"`{_short(value)}`"


def _short(value: Any) -> str:
    plain = list(value) if isinstance(value, tuple) else value
    return str(yaml.safe_dump(plain, default_flow_style=True, width=10_000).splitlines()[0])


def _yaml_table(group: str, choice: str) -> str:
    """Keys of a group that the schema leaves to the code that uses it, from one of its files."""
    rows = ["| key | in `" + f"{group}={choice}` | |", "|---|---|---|"]
    for line in (ROOT / "conf" / group / f"{choice}.yaml").read_text(encoding="utf-8").splitlines():
        match = re.match(r"^(\w+):\s*([^#]*?)\s*(?:#\s*(.*))?$", line)
        if match and match[1] != "name":
            rows.append(
                f"| `{group}.{match[1]}` | {'`' + match[2] + '`' if match[2] else 'a list'} | {_cell(match[3] or '')} |"
            )
    return "\n".join(rows) + "\n"


def _about(path: Path) -> str:
    """The comment that a file begins with."""
    words: list[str] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            if words or not line.startswith(("defaults", "name")):
                break
            continue
        if line.startswith("# @"):
            continue
        words.append(line.lstrip("# ").strip())
    return _cell(" ".join(words))


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    run_command(main, __doc__)
