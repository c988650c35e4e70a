"""A run that is stopped at any moment, in any way, goes on and measures bit for bit what it would have measured."""

import os
import signal
import threading
from pathlib import Path

import numpy as np
import pytest

from models.checkpoint import list_checkpoints, load_checkpoint
from tests.launching import before_step, measured, power_cut, run, terminate
from tests.together import apart


@pytest.mark.parametrize("step", [2, 7, 8, 11])
def test_a_signal_leaves_a_checkpoint(world: Path, straight: Path, tmp_path: Path, step: int) -> None:
    with before_step(step, terminate):
        assert run(world, tmp_path, "name=a") == 128 + signal.SIGTERM
    assert list_checkpoints(tmp_path / "a/checkpoints")[-1].name == f"step-{step:08d}.pt"
    assert run(world, tmp_path, "name=a", "resume=true") == 0
    assert measured(tmp_path / "a") == measured(straight)


@pytest.mark.parametrize("step", [3, 12])
def test_after_a_crash_resume_repeats_what_was_lost(world: Path, straight: Path, tmp_path: Path, step: int) -> None:
    with before_step(step, power_cut), pytest.raises(RuntimeError, match="power cut"):
        run(world, tmp_path, "name=a")
    assert run(world, tmp_path, "name=a", "resume=true") == 0
    assert measured(tmp_path / "a") == measured(straight)


def attempt(world: Path, runs: Path, step: int | None, delay: float, *more: str) -> int:
    """A run in a process of its own, which goes on where there is something to go on from.

    It is killed a while after its start, or after this step of its own; a negative delay leaves it alone. By steps,
    since how far a run gets in a second depends on the machine.
    """
    begun = (runs / "a/config.yaml").exists()
    death = threading.Timer(delay, os.kill, (os.getpid(), signal.SIGKILL))
    death.daemon = True
    if delay >= 0 and step is None:
        death.start()
    with before_step(step or -1, death.start):
        return run(world, runs, "name=a", *(["resume=true"] if begun else []), *more)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 1])
def test_killed_at_random_moments_a_run_goes_on_bit_for_bit(
    world: Path, straight: Path, tmp_path: Path, workers: int
) -> None:
    more = (f"data.workers={workers}", "checkpoint.every_steps=2")
    random = np.random.default_rng(workers)
    moments = [(int(random.integers(2, 6)), random.uniform(0, 0.05)) for _ in range(3)]
    moments[2:2] = [(None, random.uniform(0, 1))]
    killed = 0
    for step, delay in [*moments, (None, -1.0)]:
        process = apart(attempt, world, tmp_path, step, delay, *more)
        process.start()
        process.join()
        if process.exitcode == 0:
            break
        assert process.exitcode == -signal.SIGKILL
        killed += 1
        for file in (tmp_path / "a/checkpoints").glob("step-*.pt"):
            load_checkpoint(file)  # complete, whenever it was
    assert killed >= 2
    assert measured(tmp_path / "a") == measured(straight)
