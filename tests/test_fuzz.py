"""A small helping of the fuzzers and kills; `python -m tests.fuzz` and `python -m tests.kills` are the whole."""

import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
@pytest.mark.parametrize("command", [["tests.fuzz", "n=60", "workers=1", "seed=1000000"], ["tests.kills", "n=4"]])
def test_nothing_is_found(root: Path, command: list[str]) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", *command], cwd=root, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
