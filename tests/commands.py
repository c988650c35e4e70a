"""Run a command of the project as `python path/to/script arguments` does, without starting Python anew."""

import os
import runpy
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.conftest import ROOT
from tests.together import apart


def start(script: str, *arguments: str, folder: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Run a script of the project in a folder, in a process of its own.

    Modules of the project are loaded already, but for those that only the script's own folder gives (`scripts`).

    Returns:
        Its exit status and what it printed, as `subprocess.run` does.
    """
    with tempfile.TemporaryDirectory() as heard:
        process = apart(_run, str(ROOT / script), arguments, str(folder), heard)
        process.start()
        process.join()
        out, err = (Path(heard, name).read_text(encoding="utf-8") for name in ("out", "err"))
    return subprocess.CompletedProcess([script, *arguments], process.exitcode or 0, out, err)


def _run(script: str, arguments: tuple[str, ...], folder: str, heard: str) -> int:
    os.chdir(folder)
    sys.argv = [script, *arguments]
    sys.path[:] = [str(Path(script).parent), *(place for place in sys.path if place not in ("", str(ROOT)))]
    for name in [name for name in sys.modules if name.split(".")[0] == "scripts"]:
        del sys.modules[name]
    with open(Path(heard, "out"), "w", encoding="utf-8") as out, open(Path(heard, "err"), "w", encoding="utf-8") as err:
        os.dup2(out.fileno(), 1)  # what it starts prints there, too
        os.dup2(err.fileno(), 2)
        sys.stdout, sys.stderr = out, err
        try:
            runpy.run_path(script, run_name="__main__")
        except SystemExit as end:
            if isinstance(end.code, str):
                print(end.code, file=sys.stderr)
                return 1
            return end.code or 0
    return 0
