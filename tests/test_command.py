"""What every command does alike: help, its own options, bad input in one sentence; and each starts from any folder."""

import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from balance.errors import UserError
from conf.app.command import check_given_once, guarded, run_command, split_options, split_paths
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


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_unwinds_and_is_told_in_one_sentence(
    number: int, status: int, capsys: pytest.CaptureFixture[str]
) -> None:
    cleared: list[int] = []

    def work(sentence: str) -> None:
        try:
            signal.raise_signal(number)
        except KeyboardInterrupt as stop:
            cleared.append(number)
            stop.args = (sentence,) if sentence else ()
            raise

    before = signal.getsignal(number)
    assert [guarded(lambda said=said: work(said)) for said in ("", "All is kept.")] == [status] * 2
    assert capsys.readouterr().err == "Stopped.\nAll is kept.\n"
    assert cleared == [number] * 2
    assert signal.getsignal(number) == before


def test_a_command_s_own_options_and_those_that_are_left() -> None:
    options, rest = split_options(["out=1", "n=2", "x=3"], {"out": "", "n": 0, "more": None})
    assert (options, rest) == ({"out": "1", "n": 2, "more": None}, ["x=3"])
    with pytest.raises(UserError, match=re.escape("'--outt' is no key=value (did you mean out=...?).")):
        split_options(["--outt"], {"out": ""})
    with pytest.raises(UserError, match="can't be read; put the value in quotes"):
        split_options(["n=[1"], {"n": None})


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["data.train=S/s-0.tar", "data.train=S/s-1.tar", "data.train=S/s-2.tar"], "'data.train=S/s-{0..2}.tar'"),
        ([f"data.train=s-{n:02d}.tar" for n in range(8, 12)], "'data.train=s-{08..11}.tar'"),
        (["data.train=a/x.tar", "+data.train=a/y.tar"], "'data.train=a/{x,y}.tar'"),
        (["optim.lr=1e-3", "seed=1", "optim.lr=1e-4"], "optim.lr is given 2 times (1e-3, 1e-4); give it once."),
        (["name=a", "name=a"], "name is given 2 times (a, a); give it once."),
    ],
)
def test_a_key_given_twice_is_refused_with_the_quoting(
    arguments: list[str], told: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["command.py", *arguments])
    with pytest.raises(SystemExit) as end:
        run_command(lambda given: pytest.fail("the command began"))
    assert end.value.code == 2
    assert told in capsys.readouterr().err
    check_given_once(["a=1", "b=1", "~a", "--info=a", "--info=b", "runs/a"])


def test_paths_may_hold_what_looks_like_an_option(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("optim.lr=0.1", "optim.lr=0.2")]
    for folder in folders:
        folder.mkdir()
    given = [str(folders[0]), "out=x.html", str(folders[1]), "runs/plain"]
    assert split_paths(given, ("out", "title")) == ({"out": "x.html"}, [*folders, Path("runs/plain")])
    with pytest.raises(UserError, match="tilte=x is no option and is not there; the options are out= and title="):
        split_paths(["tilte=x"], ("out", "title"))


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
