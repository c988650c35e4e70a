"""The parts that a training loop works with, made from the configuration, and what of them a checkpoint holds."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed

from balance.common.workers import too_many_workers
from balance.files import write_whole
from balance.prepare import save_balance
from balance.stages import StagedStream, Stages, prepare_stages
from balance.stream.scaled import missing_packages
from conf.app.build import (
    continues,
    create_checkpoint_manager,
    create_model,
    create_stream,
    create_suite,
    keep_tower_outputs,
    prepare_data,
    save_tokenizer,
    tell_held_out,
)
from conf.app.cut_captions import find_cut_captions
from conf.app.run import as_dict
from conf.app.schema import Config
from conf.app.setup import Setup
from conf.app.stop_metrics import named_metrics
from eval.foreseen import check_measured
from eval.runner import Suite
from models.adapt import Lora, adapt
from models.factory import ModelBundle
from models.losses import ContrastiveLoss
from models.training.accumulation import check_accumulation
from models.training.checkpoint_manager import CheckpointManager
from models.training.distributed import Processes
from models.training.ema import Ema
from models.training.meter import Meter
from models.training.optimizer import LearningRate, create_optimizer
from models.training.progress import TrainingProgress
from models.training.provenance import write_provenance
from models.training.run_state import RunState, Stateful
from models.training.sharding import Sharded, ShardedOptimizer
from models.training.stopping import Stopper
from models.training.tracker import Tracker


@dataclass(kw_only=True)
class Parts:
    """Of one run."""

    # ------------------------------------------------------------------ where it happens
    config: Config
    accelerator: Accelerator
    processes: Processes
    folder: Path

    # ------------------------------------------------------------------ what is learned from
    shards: list[str]
    stages: Stages
    stream: StagedStream

    # ------------------------------------------------------------------ what learns
    bundle: ModelBundle  # the model with its tokenizer and preprocessing
    model: torch.nn.Module  # the bundle's model as accelerate prepared it
    trained: torch.nn.Module  # what the optimiser steps: the bundle's model, or the parts that FSDP divides
    ema: Ema | None  # of the weights, which evaluations measure where it is kept
    lora: Lora | None
    sharded: Sharded | None  # with FSDP: what `model` is a part of; the bundle's model is then brought up to date

    # ------------------------------------------------------------------ how it learns
    loss: ContrastiveLoss
    optimizer: torch.optim.Optimizer
    learning_rate: LearningRate
    progress: TrainingProgress

    # ------------------------------------------------------------------ what is measured and kept
    suite: Suite
    meter: Meter
    tracker: Tracker
    checkpoints: CheckpointManager
    stopper: Stopper

    def state(self) -> RunState:
        """All that a run needs to go on: what a checkpoint holds."""
        scaler = {} if self.accelerator.scaler is None else {"scaler": self.accelerator.scaler}  # of the loss, in fp16
        if self.sharded is None:
            model: dict[str, Stateful] = {"model": self.bundle.model, "optimizer": self.optimizer}
        else:
            by_name = ShardedOptimizer(self.sharded.parts, self.optimizer)
            model = {"model": self.sharded, "optimizer_by_name": by_name}
        return RunState(
            shared={
                **model,
                **scaler,
                "tracker": self.tracker,
                "stream": self.stream,
                "clock": self.progress,
                "keeper": self.checkpoints,
                "stopper": self.stopper,
                **({} if self.ema is None else {"ema": self.ema}),
            },
            own={"meter": self.meter},
            facts={"model_config": self.bundle.config, "lora_scale": None if self.lora is None else self.lora.scale},
            plan=self.stages.hash,
            processes=self.processes,
        )

    def write_facts(self) -> None:
        """Write what the run's folder says of its start: tokenizer, plan, provenance, evaluation sets."""
        save_tokenizer(self.bundle, self.folder)
        save_balance(self.stages.main, self.folder / "plan")
        plan, device = self.stages.main.hash, self.accelerator.device
        write_provenance(self.folder, self.shards, plan, device, self.processes.world)
        sets = json.dumps(self.suite.sets_read(), indent=1, ensure_ascii=False)
        write_whole(self.folder / "evaluation_sets.json", sets)


AnyParts = TypeVar("AnyParts", bound=Parts)


def make_parts(kind: type[AnyParts], config: Config, setup: Setup, folder: Path) -> AnyParts:
    """Make evaluation sets, attributes and plan, model, optimiser and stream, in the order of what they cost.

    Args:
        kind: `Parts`, or a class on top of it.
        config: of the run.
        setup: of the run.
        folder: of the run.

    Raises:
        UserError: bad input; nothing was trained yet.
    """
    processes, accelerator, data, optim = setup.processes, setup.accelerator, config.data, config.optim
    suite = create_suite(config, setup.held_out, setup.shards)
    check_measured(named_metrics(config), suite)
    _say_notes(config, processes, suite)
    with processes.first_before_others():  # the first labels the shards, the others find them labelled
        stages = prepare_stages(setup.specs, lambda wanted: prepare_data(config, wanted, setup.shards, processes.first))
    main = stages.main
    processes.say("\n".join(filter(None, [tell_held_out(config, main, suite), main.table()])))

    set_seed(config.seed)
    bundle = create_model(config.model, accelerator.device, load=not continues(config))
    cut = find_cut_captions(setup.shards, bundle, config.attributes).sentence() if processes.first else ""
    for sentence in filter(None, [*bundle.notes, cut]):
        processes.say(f"note: {sentence}")
    lora = adapt(bundle.model, config.model.freeze, config.model.lora)
    outputs = keep_tower_outputs(config, setup.shards, stages, bundle, processes, accelerator.device, setup.precision)
    ema = None if config.model.ema is None else Ema(bundle.model, config.model.ema)
    check_accumulation(bundle.model, optim.accumulate, data.batch_size)

    sharded = Sharded(bundle.model, accelerator.device, processes.world) if config.fsdp else None
    trained = bundle.model if sharded is None else sharded.parts
    optimizer = create_optimizer(
        trained, optim.lr, optim.weight_decay, (optim.beta1, optim.beta2), optim.eps, optim.layer_decay
    )
    if config.compile:
        bundle.model.compile()  # in place, so that checkpoints keep the names of the weights
    if sharded is None:
        model, optimizer = accelerator.prepare(trained, optimizer)
    else:
        model = accelerator.prepare_model(trained, evaluation_mode=True)  # its precision, and no DDP around it

    wanted = config.schedule
    epoch_samples = wanted.epoch_samples or stages.expected
    progress = TrainingProgress(epoch_samples, data.batch_size * processes.world, wanted.epochs, wanted.warmup)
    return kind(
        config=config,
        accelerator=accelerator,
        processes=processes,
        folder=folder,
        shards=setup.shards,
        stages=stages,
        stream=create_stream(config, setup.shards, stages, bundle, processes, progress, outputs),
        bundle=bundle,
        model=model,
        trained=trained,
        ema=ema,
        lora=lora,
        sharded=sharded,
        loss=ContrastiveLoss(bundle.loss, processes.rank, processes.world, chunks=optim.accumulate),
        optimizer=optimizer,
        learning_rate=LearningRate(optimizer, progress, optim.lr, optim.lr * wanted.final_lr),
        progress=progress,
        suite=suite,
        meter=Meter(progress, main.s_names, main.y_names, data.max_bad, processes),
        tracker=Tracker(folder, processes.first, folder.name, as_dict(config)),
        checkpoints=create_checkpoint_manager(config, folder, progress),
        stopper=setup.stopper,
    )


def _say_notes(config: Config, processes: Processes, suite: Suite) -> None:
    """Say what is left out, and what will be slow."""
    here = int(os.environ.get("LOCAL_WORLD_SIZE", processes.world))
    crowded = too_many_workers(config.data.workers * here)
    missing = missing_packages() if config.data.fast_decode else None
    for sentence in [*suite.skipped, *filter(None, [crowded, missing])]:
        processes.say(f"note: {sentence}")
