"""What a run knows before anything is made: its configuration is checked, and its processes have found each other."""

import os
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import InitProcessGroupKwargs

from balance.stages import StageSpec, resolve_stages, stage_specs
from balance.stream.shards import expand_shards
from conf.app.build import check_model, continues, find_held_out
from conf.app.run import check_run
from conf.app.schema import Config
from eval.sets import HeldOut
from models.training.distributed import PATIENCE, Processes, check_launcher
from models.training.launcher import launcher_notes
from models.training.precision import MODES, resolve_device, resolve_precision
from models.training.run_state import check_newest
from models.training.sharding import check_sharding
from models.training.stopping import Stopper


@dataclass(frozen=True, kw_only=True)
class Setup:
    """Where a run is about to happen, and on what.

    Attributes:
        accelerator: of this process.
        processes: those that train together.
        device: what a run computes on.
        precision: fp32, bf16 or fp16.
        shards: of the training data.
        held_out: what of the data is measured on and never trained on; None for nothing.
        specs: the stages of the run, checked.
        stopper: judges evaluations against targets and bounds.
    """

    accelerator: Accelerator
    processes: Processes
    device: torch.device
    precision: str
    shards: list[str]
    held_out: HeldOut | None
    specs: list[StageSpec]
    stopper: Stopper


def set_up(config: Config) -> Setup:
    """Check what can be checked at once, and meet the other processes; `config` is completed on the way.

    Raises:
        UserError: bad input; nothing was done yet.
    """
    check_launcher(os.environ)
    check_run(config)
    config.stages = resolve_stages(config.stages, config.stage.share, config.stage.order, config.balance)
    specs = stage_specs(config.stages, config.balance)
    device = resolve_device(config.device)
    precision = resolve_precision(config.precision, device)
    notes = check_model(config)
    stopper = Stopper(config.stop.targets, config.stop.quality, config.stop.certain, config.stop.in_a_row)
    shards = expand_shards(config.data.train, "data.train", config.data.allow_pipe)
    held_out = find_held_out(config, shards)
    accelerator = Accelerator(
        mixed_precision=MODES[precision],
        cpu=device.type == "cpu",
        kwargs_handlers=[InitProcessGroupKwargs(timeout=PATIENCE)],
    )
    processes = Processes()
    for sentence in [*launcher_notes(processes.world, os.environ), *notes]:
        processes.say(f"note: {sentence}")
    if config.fsdp:
        wanted = config.model
        others = {"model.ema": wanted.ema, "model.lora": wanted.lora, "model.keep_outputs": wanted.keep_outputs}
        check_sharding(processes.world, precision, others)
    return Setup(
        accelerator=accelerator,
        processes=processes,
        device=device,
        precision=precision,
        shards=shards,
        held_out=held_out,
        specs=specs,
        stopper=stopper,
    )


def check_checkpoint(config: Config, setup: Setup) -> None:
    """Check that the checkpoint of a run that is resumed holds what this configuration needs.

    Raises:
        UserError: it doesn't.
    """
    if continues(config):
        checkpoints = Path(config.runs) / str(config.name) / "checkpoints"
        averaged, scaled = config.model.ema is not None, setup.accelerator.scaler is not None
        settings = {"ema": averaged, "optimizer_by_name": config.fsdp, "scaler": scaled}
        check_newest(checkpoints, settings, setup.processes.world)
