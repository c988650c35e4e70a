"""Whole runs on 1, 2 and 4 processes: the same samples, the same metrics, the same weights."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.commands.launch import launch_command_parser
from accelerate.utils.launch import prepare_multi_gpu_env

import train
from balance.errors import UserError
from conf.app.cli import compose
from models.checkpoint import list_checkpoints, load_checkpoint
from models.training.distributed import check_launcher
from tests.launching import MODEL, before_step, measured, tiny_overrides
from tests.tiny import people_shards
from tests.together import free_port, together

SAMPLES = 64


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three shards for up to four processes."""
    folder = tmp_path_factory.mktemp("world")
    people_shards(folder / "train", [30, 4, SAMPLES - 34])
    people_shards(folder / "eval", [30])
    return folder


def wanted(world: Path, runs: Path, processes: int, loss: str, *more: str) -> list[str]:
    """One batch holds all samples, so that a step's samples are the same however many processes share them."""
    config: dict[str, Any] = {**MODEL, **({"init_logit_bias": -10} if loss == "siglip" else {})}
    config["vision_cfg"] = {**config["vision_cfg"], "patch_dropout": 0}  # its draws differ between processes
    return tiny_overrides(
        world,
        runs,
        f"name=of{processes}",
        f"model.config={json.dumps(config)}".replace('"', ""),
        f"model.loss={loss}",
        f"data.batch_size={SAMPLES // processes}",
        "balance.mode=weight",
        "optim.eps=1e-3",  # AdamW divides by small gradients; without this it would enlarge what rounding leaves
        "optim.accumulate=2",
        "track.every=1",
        *more,
    )


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["clip", "siglip"])
def test_samples_metrics_and_weights_are_those_of_one_process(world: Path, tmp_path: Path, loss: str) -> None:
    for processes in (1, 2, 4):
        task = wanted(world, tmp_path, processes, loss, "schedule.epochs=2")
        assert together(processes, train_with, task) == [0] * processes
    one = {(row["name"], row["step"]): row for row in measured(tmp_path / "of1")}
    state = load_checkpoint(list_checkpoints(tmp_path / "of1/checkpoints")[-1])
    for processes in (2, 4):
        folder = tmp_path / f"of{processes}"
        many = {(row["name"], row["step"]): row for row in measured(folder)}
        assert set(many) == set(one)
        for key, row in one.items():
            assert many[key]["samples"] == row["samples"]
            for part in ("value", "low", "high"):
                if row[part] is not None:
                    assert many[key][part] == pytest.approx(row[part], abs=2e-4), (key, part)
        found = load_checkpoint(list_checkpoints(folder / "checkpoints")[-1])
        assert len(found["ranks"]) == processes
        assert found["clock"]["step"] == state["clock"]["step"] == 2
        for name, weight in state["model"].items():
            torch.testing.assert_close(found["model"][name], weight, rtol=0, atol=2e-5)


def train_with(task: list[str]) -> int:
    return train.main(compose(task))


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def train_until_killed(task: list[str], step: int) -> int:
    with before_step(step, kill):
        return train_with(task)


@pytest.mark.slow
def test_two_processes_stopped_or_killed_go_on_bit_for_bit(world: Path, tmp_path: Path) -> None:
    """With dropout, so that each process needs its own random state; killed in the midst of a step."""
    more = ("name=a", "data.batch_size=8", "balance=none", "schedule.epochs=2", "checkpoint.every_steps=2")
    straight, killed = (tiny_overrides(world, tmp_path / way, *more) for way in ("straight", "killed"))
    assert together(2, train_with, straight) == [0, 0]
    assert together(2, train_until_killed, killed, 6) == [-9, -9]
    assert together(2, train_with, [*killed, "resume=true"]) == [0, 0]
    assert measured(tmp_path / "killed/a") == measured(tmp_path / "straight/a")


@pytest.mark.slow
def test_a_sharded_model_trains_as_a_whole_one_and_goes_on(world: Path, tmp_path: Path) -> None:
    def task(name: str, *more: str) -> list[str]:
        return wanted(world, tmp_path / name, 2, "siglip", "schedule.epochs=2", *more)

    assert together(2, train_with, task("ddp")) == [0, 0]
    assert together(2, train_with, task("fsdp", "fsdp=true")) == [0, 0]
    ddp, fsdp = (load_checkpoint(list_checkpoints(tmp_path / n / "of2/checkpoints")[-1]) for n in ("ddp", "fsdp"))
    for name, weight in ddp["model"].items():
        torch.testing.assert_close(fsdp["model"][name], weight, rtol=0, atol=2e-5)
    before = measured(tmp_path / "fsdp/of2")
    list_checkpoints(tmp_path / "fsdp/of2/checkpoints")[-1].unlink()  # as if killed before it
    assert together(2, train_with, task("fsdp", "fsdp=true", "resume=true")) == [0, 0]
    assert measured(tmp_path / "fsdp/of2") == before
    assert together(2, train_with, task("ddp", "fsdp=true", "resume=true")) == [1, 1]  # refused: of another kind


@pytest.mark.parametrize(
    ("variable", "value", "key"),
    [
        ("ACCELERATE_USE_FSDP", "true", "fsdp=true"),
        ("ACCELERATE_USE_FSDP", "1", "fsdp=true"),
        ("ACCELERATE_USE_DEEPSPEED", "true", "fsdp=true"),
        ("ACCELERATE_USE_MEGATRON_LM", "True", "fsdp=true"),
        ("ACCELERATE_USE_PARALLELISM_CONFIG", "true", "fsdp=true"),
        ("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4", "optim.accumulate"),
        ("ACCELERATE_DYNAMO_BACKEND", "INDUCTOR", "compile=true"),
    ],
)
def test_what_the_launcher_may_not_ask_for_is_told(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str, value: str, key: str
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(UserError, match=f"{variable}={value}: accelerate was told .* give {key}.* to train.py"):
        train_with(wanted(world, tmp_path, 1, "clip", "dry_run=true"))


def test_what_the_launcher_always_says_is_no_wish() -> None:
    said = {"ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "1", "ACCELERATE_DYNAMO_BACKEND": "NO"}
    check_launcher({**said, "ACCELERATE_USE_FSDP": "false", "ACCELERATE_MIXED_PRECISION": "no"})


def test_what_accelerate_launch_with_fsdp_passes_on_is_refused() -> None:
    options = launch_command_parser().parse_args(
        [
            "--use_fsdp",
            "--num_processes=2",
            "--num_machines=1",
            "--mixed_precision=no",
            "--dynamo_backend=no",
            "train.py",
        ]
    )
    with pytest.raises(UserError, match=r"accelerate was told to use FSDP .* fsdp=true to train\.py"):
        check_launcher(prepare_multi_gpu_env(options))


@pytest.mark.slow
def test_processes_that_mpi_starts_train_together(world: Path, tmp_path: Path) -> None:
    """As `accelerate launch --cpu --mpirun_hostfile=...` starts them: each reads its rank in Open MPI's variables."""
    assert together(2, train_with, wanted(world, tmp_path, 2, "clip", "schedule.epochs=1"), ranks="mpi") == [0, 0]
    assert len(load_checkpoint(list_checkpoints(tmp_path / "of2/checkpoints")[-1])["ranks"]) == 2


@pytest.mark.slow
def test_one_process_that_fails_ends_all(world: Path, tmp_path: Path, root: Path) -> None:
    """One process meets what it can't use; the launcher ends the other, which waits for it."""
    shards = people_shards(tmp_path / "train", [40, 40])
    more = ("name=a", "data.batch_size=8", "balance=none", "schedule.epochs=200", f"data.train={tmp_path / 'train'}")
    task = tiny_overrides(world, tmp_path / "runs", *more)
    # On CPUs `accelerate launch` starts one process alone, whatever the number.
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", f"--master_port={free_port()}"]
    command.append("train.py")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [*command, *task], cwd=root, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        end = time.monotonic() + 200
        while not list((tmp_path / "runs/a/checkpoints").glob("step-*.pt")) and time.monotonic() < end:
            time.sleep(0.2)
        (tmp_path / "empty").write_bytes(b"")
        (tmp_path / "empty").replace(shards[1])  # cutting the file that is being read would be a bus error
        output, _ = process.communicate(timeout=300)
    finally:
        process.kill()
    assert process.returncode != 0
    assert "2 process(es)" in output
    assert "the shard has changed" in output
