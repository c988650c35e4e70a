"""Run a command of the project as `python path/to/script arguments` does, without starting Python anew."""

import os
import runpy
import sys
from pathlib import Path

from tests.conftest import ROOT
from tests.together import apart


def start(script: str, arguments: list[str], folder: Path) -> tuple[int | None, str]:
    """Run a script in a folder, in a process of its own; its exit status and what it printed.

    Modules of the project are loaded already, but for those that only the script's own folder gives (`scripts`).
    """
    heard = folder / ".heard"
    process = apart(_run, str(ROOT / script), arguments, str(folder), str(heard))
    process.start()
    process.join()
    return process.exitcode, heard.read_text(encoding="utf-8")


def _run(script: str, arguments: list[str], folder: str, heard: str) -> int:
    os.chdir(folder)
    sys.argv = [script, *arguments]
    sys.path[:] = [str(Path(script).parent), *(place for place in sys.path if place not in ("", str(ROOT)))]
    for name in [name for name in sys.modules if name.split(".")[0] == "scripts"]:
        del sys.modules[name]
    with open(heard, "w", encoding="utf-8") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
        sys.stdout = sys.stderr = file
        try:
            runpy.run_path(script, run_name="__main__")
        except SystemExit as end:
            if isinstance(end.code, str):
                print(end.code)
                return 1
            return end.code or 0
    return 0
