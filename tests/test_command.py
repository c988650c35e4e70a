"""What every command does alike: help, its own options, bad input in one sentence; and each starts from any folder."""

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from balance.errors import UserError
from conf.command import run_command, split_options
from tests.commands import start
from tests.conftest import ROOT

COMMANDS = sorted(path.name for path in (ROOT / "scripts").glob("*.py") if "run_command(main" in path.read_text())


def wrong(arguments: list[str]) -> int:
    raise UserError("Name a folder.")


@pytest.mark.parametrize(
    ("main", "arguments", "bare", "status", "out", "told"),
    [
        (len, ["a", "b", "c"], True, 3, "", ""),
        (lambda arguments: None, [], True, None, "", ""),
        (wrong, ["a"], True, 2, "", "error: Name a folder.\n"),
        (wrong, [], True, 2, "", "error: Name a folder.\n"),
        (wrong, [], False, 0, "How to\n", ""),
        (wrong, ["a", "--help"], True, 0, "How to\n", ""),
        (wrong, ["-h"], False, 0, "How to\n", ""),
    ],
)
def test_status_help_and_errors(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    main: Callable[[list[str]], int | None],
    arguments: list[str],
    bare: bool,
    status: int | None,
    out: str,
    told: str,
) -> None:
    monkeypatch.setattr(sys, "argv", ["command.py", *arguments])
    with pytest.raises(SystemExit) as end:
        run_command(main, "How to", bare)
    assert (end.value.code, *capsys.readouterr()) == (status, out, told)


def test_a_command_s_own_options_and_those_that_are_left() -> None:
    options, rest = split_options(["out=1", "n=2", "x=3"], {"out": "", "n": 0, "more": None})
    assert (options, rest) == ({"out": "1", "n": 2, "more": None}, ["x=3"])
    with pytest.raises(UserError, match=re.escape("'--outt' is no key=value (did you mean out=...?).")):
        split_options(["--outt"], {"out": ""})
    with pytest.raises(UserError, match="can't be read; put the value in quotes"):
        split_options(["n=[1"], {"n": None})


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_starts_from_any_folder(name: str, tmp_path: Path) -> None:
    done = start(f"scripts/{name}", "--help", folder=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    assert len(done.stdout) > 100


LIGHT = """
import sys, runpy
sys.argv = {argv}
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
except SystemExit as end:
    print("status", end.code)
print("loaded", *sorted({heavy} & set(sys.modules)))
"""


NOT_NEEDED = {"torch", "torchvision", "open_clip", "transformers", "timm", "wandb", "accelerate", "webdataset", "ray"}
CHARTS = {"matplotlib", "scipy", "pandas"}


@pytest.mark.parametrize(
    ("script", "argument", "heavy"),
    [
        ("train.py", "--help", NOT_NEEDED | CHARTS),
        ("train.py", "schedule.epoch=2", NOT_NEEDED | CHARTS),
        ("scripts/audit.py", "--help", NOT_NEEDED),
        ("scripts/annotate.py", "--help", NOT_NEEDED),
        ("scripts/compare.py", "--help", NOT_NEEDED),
    ],
)
def test_help_and_mistakes_do_not_wait_for_what_they_do_not_need(script: str, argument: str, heavy: set[str]) -> None:
    code = LIGHT.format(argv=[script, argument], heavy=heavy)
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=300, check=True
    )
    *_, status, loaded = done.stdout.strip().splitlines()
    assert status == f"status {0 if argument == '--help' else 2}"
    assert loaded == "loaded"
