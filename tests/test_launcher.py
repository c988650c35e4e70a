"""A launcher that was asked for several processes and started one: the run says so."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import train
from conf.app.cli import compose
from models.training import launcher
from models.training.launcher import asked_of_accelerate, launcher_notes
from tests.launching import tiny_overrides

ACCELERATE = {"ACCELERATE_MIXED_PRECISION": "no", "ACCELERATE_USE_CPU": "True"}
COMMAND = ["python", "/venv/bin/accelerate", "launch", "--cpu"]


@pytest.mark.parametrize(
    ("start", "number"),
    [
        (["python", "/venv/bin/accelerate", "launch"], "--num_processes=3"),
        (["python", "/venv/bin/accelerate-launch"], "--num-processes 3"),
        (["python", "-m", "accelerate.commands.launch"], "--num_processes 3"),
        (["python", "-m", "accelerate.commands.accelerate_cli", "launch"], "--cpu --num_processes=3"),
    ],
)
def test_the_number_is_read_however_it_is_written(start: list[str], number: str) -> None:
    assert asked_of_accelerate([*start, *number.split(), "train.py", "name=a"]) == 3


def test_the_number_may_stand_in_the_launchers_configuration(tmp_path: Path) -> None:
    file = tmp_path / "two.yaml"
    content = {
        "compute_environment": "LOCAL_MACHINE",
        "distributed_type": "MULTI_CPU",
        "num_processes": 2,
        "use_cpu": True,
    }
    file.write_text(json.dumps(content), encoding="utf-8")  # JSON is YAML
    assert asked_of_accelerate([*COMMAND, f"--config_file={file}", "train.py"]) == 2
    assert asked_of_accelerate([*COMMAND, "--config_file", str(tmp_path / "none.yaml"), "train.py"]) is None
    for other in (["bash"], [], ["python", "train.py", "--num_processes=2"], [*COMMAND, "--no-such-flag"]):
        assert asked_of_accelerate(other) is None


def test_notes_say_what_was_asked_and_how_to_get_it() -> None:
    (note,) = launcher_notes(1, ACCELERATE, [*COMMAND, "--num_processes=2", "train.py"])
    assert "accelerate launch was asked for 2 processes, and this one trains alone" in note
    assert "torchrun --nproc_per_node=2 train.py" in note
    for variable in ("WORLD_SIZE", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS"):
        (note,) = launcher_notes(1, {variable: "4"}, [])
        assert f"{variable}=4" in note


def test_who_got_what_was_asked_for_hears_nothing() -> None:
    assert launcher_notes(1, ACCELERATE, [*COMMAND, "--num_processes=1", "train.py"]) == []
    assert launcher_notes(2, {**ACCELERATE, "WORLD_SIZE": "2"}, [*COMMAND, "--num_processes=2", "train.py"]) == []
    assert launcher_notes(16, {"SLURM_STEP_NUM_TASKS": "2", "WORLD_SIZE": "16"}, []) == []
    assert launcher_notes(1, {"WORLD_SIZE": "1", "PMI_SIZE": ""}, []) == []


def test_a_run_says_it(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in ACCELERATE.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(launcher, "parent_command", lambda: [*COMMAND, "--num_processes=2", "train.py"])
    assert train.main(compose(tiny_overrides(world, tmp_path, "name=a", "dry_run=true"))) == 0
    assert "note: accelerate launch was asked for 2 processes" in capsys.readouterr().out


@pytest.mark.slow
def test_accelerates_own_launcher_is_seen_through(tmp_path: Path, root: Path) -> None:
    """In its real environment, beneath its real command; what a run does beside is tested above."""
    script = tmp_path / "alone.py"
    script.write_text(
        "import os\nfrom models.training.launcher import launcher_notes\nprint(*launcher_notes(1, os.environ))\n"
    )
    command = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2", str(script)]
    environment = {**os.environ, "PYTHONPATH": str(root), "HF_HOME": str(tmp_path)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("accelerate launch was asked for 2 processes") == 1
