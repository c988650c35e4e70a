"""The console command: `counterbalance train|annotate|audit|...` runs what `python train.py` and `scripts/` run.

The commands are the files themselves, found by their names and told by the first line of their docstrings, so that
there is no table to keep.
"""

import ast
import importlib.util
import runpy
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from importlib.metadata import version
from pathlib import Path

USUAL = ("train", "annotate", "audit", "solve", "evaluate", "compare", "export")
"""What most people need, in the order of a project."""
UPKEEP = ("bench_", "config_reference", "make_attribute_rows", "coverage")
"""Beginnings of the names of commands for those who work on the project itself."""


@dataclass(frozen=True)
class Command:
    """One command.

    Attributes:
        name: as typed, with hyphens.
        module: that is run as the main one.
        path: of its file.
        about: what it does, in a line.
    """

    name: str
    module: str
    path: Path
    about: str


def commands() -> dict[str, Command]:
    """All commands by name: those most people need first, those of upkeep last."""
    found = [_command("train")]
    spec = importlib.util.find_spec("scripts")
    for folder in (spec.submodule_search_locations or []) if spec is not None else []:
        found += [_command(f"scripts.{path.stem}", path) for path in sorted(Path(folder).glob("*.py"))]
    known = {command.name: command for command in found if command is not None}
    order = [name for name in USUAL if name in known]
    rest = [name for name in known if name not in order]
    return {name: known[name] for name in [*order, *sorted(rest, key=lambda name: (for_upkeep(name), name))]}


def for_upkeep(name: str) -> bool:
    """Whether a command is for those who work on the project itself."""
    return name.replace("-", "_").startswith(UPKEEP)


def _command(module: str, path: Path | None = None) -> Command | None:
    """The command that a module is; None if it is none. It is read, not imported."""
    if path is None:
        spec = importlib.util.find_spec(module)
        path = Path(str(spec.origin)) if spec is not None else None
    if path is None or not path.is_file():
        return None
    source = path.read_text(encoding="utf-8")
    if '__name__ == "__main__"' not in source:
        return None
    about = (ast.get_docstring(ast.parse(source)) or "").partition("\n")[0]
    return Command(path.stem.replace("_", "-"), module, path, about)


def overview() -> str:
    """All commands with a line each."""
    known = commands()
    width = max(map(len, known)) + 2
    lines = ["usage: counterbalance <command> [key=value ...]", "       counterbalance <command> --help", ""]
    for title, upkeep in (("Commands", False), ("For work on the project itself", True)):
        lines += [title, *(f"  {c.name:{width}}{c.about}" for c in known.values() if for_upkeep(c.name) == upkeep), ""]
    return "\n".join(lines).rstrip()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command that the arguments name, as if its file were run; the exit status."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if not given or given[0] in ("-h", "--help", "help"):
        print(overview())
        return 0
    if given[0] == "--version":
        print(f"counterbalance {version('counterbalance')}")
        return 0
    known, name = commands(), given[0].replace("_", "-").removesuffix(".py")
    if name not in known:
        near = get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]}?" if near else "counterbalance --help lists all commands."
        print(f"error: There is no command {given[0]!r}; {hint}", file=sys.stderr)
        return 2
    sys.argv = [str(known[name].path), *given[1:]]
    runpy.run_path(str(known[name].path), run_name="__main__")
    return 0


if __name__ == "__main__":
    sys.exit(main())
