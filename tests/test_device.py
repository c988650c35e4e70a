"""A run on the CPU leaves the machine's GPUs alone."""

import os
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from conf.app.cli import launch
from models.checkpoint import list_checkpoints, load_checkpoint, rng_state, set_rng_state
from tests.launching import run


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine whose GPU can be seen and must not be used: whatever starts CUDA fails."""

    def started(*_: Any, **__: Any) -> None:
        raise AssertionError("CUDA was started")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    for place, name in ((torch.cuda, "_lazy_init"), (torch._C, "_cuda_init"), (torch.cuda, "get_rng_state")):
        monkeypatch.setattr(place, name, started)
    # An optimiser's step asks the GPU whether a graph is being captured: torch's own habit, see `hide_gpus`.
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available=False: None, raising=False)


@pytest.mark.usefixtures("gpu")
def test_a_run_on_the_cpu_does_not_start_cuda(world: Path, tmp_path: Path) -> None:
    assert run(world, tmp_path, "name=a", "schedule.epochs=1", "optim.accumulate=2") == 0
    assert run(world, tmp_path, "name=a", "resume=true", "schedule.epochs=2") == 0
    (mine,) = load_checkpoint(list_checkpoints(tmp_path / "a/checkpoints")[-1])["ranks"]
    assert set(mine["rng"]) == {"cpu"}


@pytest.mark.usefixtures("gpu")
def test_a_gpus_state_is_not_restored_on_the_cpu() -> None:
    state = {**rng_state(), "cuda": torch.zeros(16, dtype=torch.uint8)}
    set_rng_state(state)


@pytest.mark.parametrize(
    ("arguments", "hidden"),
    [(["device=cpu"], True), (["device=auto"], False), (["-m", "device=cpu,auto"], False)],
)
def test_a_command_for_the_cpu_hides_gpus_from_itself(
    arguments: list[str], hidden: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["train.py", *arguments])
    seen = []
    try:
        launch(lambda config: seen.append((config.device, os.environ["CUDA_VISIBLE_DEVICES"])))
    except SystemExit as end:
        assert not end.code  # noqa: PT017 - a command may exit, with success
    assert [value for _, value in seen] == ["" if hidden else "0"] * len(seen)
    assert len(seen) == (2 if "-m" in arguments else 1)
