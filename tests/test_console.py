"""One command for all: it finds them by their files, and runs them as their files run."""

import sys
from pathlib import Path

import pytest

from conf.app.console import commands, main, overview


def test_every_file_that_can_be_run_is_a_command(root: Path) -> None:
    files = [root / "train.py", *(root / "scripts").glob("*.py")]
    runnable = {path.stem.replace("_", "-") for path in files if '__name__ == "__main__"' in path.read_text()}
    found = commands()
    assert set(found) == runnable
    assert list(found)[:4] == ["train", "annotate", "audit", "solve"]
    shown = overview()
    for name, command in found.items():
        assert command.about.endswith((".", ":")) or len(command.about) > 20
        assert f"  {name} " in shown
        assert f"{command.about}\n" in shown + "\n"


@pytest.mark.parametrize("arguments", [[], ["--help"], ["help"]])
def test_help_lists_them(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 0
    assert capsys.readouterr().out.strip() == overview().strip()


def test_an_unknown_command_is_told_with_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["trian", "name=a"]) == 2
    assert capsys.readouterr().err == "error: There is no command 'trian'; did you mean train?\n"


@pytest.mark.parametrize("name", ["solve", "export"])
def test_a_command_runs_as_its_file_does(
    name: str, root: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["counterbalance"])
    with pytest.raises(SystemExit) as helped:
        main([name, "--help"])
    assert not helped.value.code
    assert capsys.readouterr().out.startswith(commands()[name].about.split(":")[0])
    with pytest.raises(SystemExit) as wrong:
        main([f"{name}.py", "nonsense"])  # as typed by habit
    assert wrong.value.code == 2
    assert capsys.readouterr().err.startswith("error: ")
    assert sys.argv == [str(root / "scripts" / f"{name}.py"), "nonsense"]
