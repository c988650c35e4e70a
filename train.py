"""Train a CLIP or SigLIP model on balanced image-text data and measure its bias and quality after every epoch.

    python train.py name=mine data=wds 'data.train=shards/train-{00000..00099}.tar' attributes=captions

The story from top to bottom: configuration -> attributes -> plan -> model -> stream -> loop -> evaluation.
Everything that can be known to be wrong is checked before the first step.
"""

import conf.app.runtime  # noqa: F401  # isort: skip  # before torch

if __name__ == "__main__":  # help and mistakes are answered before torch loads, which takes seconds
    from conf.app.cli import answer_early

    answer_early()

import contextlib
import json
import os
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import InitProcessGroupKwargs, set_seed

from balance.common.metric import Metric, as_metrics
from balance.common.workers import too_many_workers
from balance.files import write_whole
from balance.prepare import save_balance
from balance.progress import ProgressLine
from balance.stages import StagedStream, Stages, prepare_stages, resolve_stages, stage_specs
from balance.stream.accepted import over_processes
from balance.stream.balanced import Batch
from balance.stream.scaled import missing_packages
from balance.stream.shards import expand_shards
from conf.app.build import (
    check_model,
    create_keeper,
    create_model,
    create_stream,
    create_suite,
    find_held_out,
    goes_on,
    keep_tower_outputs,
    prepare_data,
    rehearse,
    save_tokenizer,
    tell_held_out,
)
from conf.app.cli import launch
from conf.app.cut_captions import find_cut_captions
from conf.app.run import as_dict, check_run, resume_command, write_config
from conf.app.run_folder import RunFolder, run_folder
from conf.app.schema import Config
from conf.app.stop_metrics import named_metrics
from eval.foreseen import check_measured
from eval.report.run_page import write_report
from eval.report.summary import summarise
from eval.runner import Suite
from eval.sets import HeldOut
from models.adapt import Lora, adapt
from models.checkpoint import check_weights
from models.factory import ModelBundle
from models.losses import ContrastiveLoss
from models.training.accumulation import backward, check_accumulation
from models.training.checkpoint_manager import Keeper
from models.training.distributed import PATIENCE, Processes, check_launcher
from models.training.ema import Ema
from models.training.launcher import launcher_notes
from models.training.meter import Meter
from models.training.optimizer import create_optimizer, learning_rate, set_learning_rate
from models.training.precision import MODES, attention, resolve_device, resolve_precision
from models.training.provenance import write_provenance
from models.training.run_state import RunState, Stateful, check_newest
from models.training.schedule import Clock
from models.training.sharding import Sharded, ShardedOptimizer, check_sharding, whole_tensor
from models.training.signals import stop_on_signal
from models.training.stopping import Stopper, write_outcome
from models.training.tracker import Tracker

MAX_LOGIT_SCALE = 4.6052  # log 100, as CLIP clamps it


@dataclass
class Training:
    """What the loop works with, as `prepare` makes it."""

    config: Config
    accelerator: Accelerator
    processes: Processes
    folder: Path
    shards: list[str]
    suite: Suite
    stages: Stages
    bundle: ModelBundle
    model: torch.nn.Module  # the bundle's model as accelerate prepared it
    trained: torch.nn.Module  # what the optimiser steps: the bundle's model, or the parts that FSDP divides
    optimizer: torch.optim.Optimizer
    loss: ContrastiveLoss
    stream: StagedStream
    clock: Clock
    meter: Meter
    tracker: Tracker
    keeper: Keeper
    stopper: Stopper
    ema: Ema | None  # of the weights, which evaluations measure where it is kept
    lora: Lora | None
    sharded: Sharded | None  # with FSDP: what `model` is a part of; the bundle's model is then brought up to date


def main(config: Config) -> int:
    """Run one training run; the exit status (130 or 143 when stopped by a signal)."""
    # ------------------------------------------------------------------ what can be checked at once
    check_launcher(os.environ)
    check_run(config)
    config.stages = resolve_stages(config.stages, config.stage.share, config.stage.order, config.balance)
    specs = stage_specs(config.stages, config.balance)
    device = resolve_device(config.device)
    precision = resolve_precision(config.precision, device)
    told = check_model(config)
    stopper = Stopper(config.stop.targets, config.stop.quality, config.stop.certain)
    shards = expand_shards(config.data.train, "data.train", config.data.allow_pipe)
    held_out = find_held_out(config, shards)

    # ------------------------------------------------------------------ processes and the run's folder
    accelerator = Accelerator(
        mixed_precision=MODES[precision],
        cpu=device.type == "cpu",
        kwargs_handlers=[InitProcessGroupKwargs(timeout=PATIENCE)],
    )
    processes = Processes()
    world, say = processes.world, processes.say
    for sentence in [*launcher_notes(world, os.environ), *told]:
        say(f"note: {sentence}")
    if config.fsdp:
        wanted = config.model
        others = {"model.ema": wanted.ema, "model.lora": wanted.lora, "model.keep_outputs": wanted.keep_outputs}
        check_sharding(world, precision, others)
    if config.dry_run:
        check_checkpoint(config, accelerator, world)
        return rehearse(config, specs, shards, held_out, device, precision, processes)
    with run_folder(config, processes) as folder:  # this run's alone, and until the first step given back if it fails
        check_checkpoint(config, accelerator, world)
        about = f"{config.model.name} on {len(shards)} shards, {world} process(es), {device.type}, {precision}"
        say(f"Run {config.name}: {about}")
        run = prepare(config, accelerator, processes, folder.path, shards, held_out, precision, stopper)
        with run.tracker:
            return train(run, folder)


def check_checkpoint(config: Config, accelerator: Accelerator, world: int) -> None:
    """Check that the checkpoint of a run that is gone on with holds what this configuration needs.

    Raises:
        UserError: it doesn't.
    """
    if goes_on(config):
        checkpoints = Path(config.runs) / str(config.name) / "checkpoints"
        averaged, scaled = config.model.ema is not None, accelerator.scaler is not None
        check_newest(checkpoints, {"ema": averaged, "optimizer_by_name": config.fsdp, "scaler": scaled}, world)


def train(run: Training, place: RunFolder) -> int:
    """Begin or go on, and take all steps; the exit status."""
    config, folder, trained = run.config, run.folder, run.trained
    clock, meter, tracker, keeper, stream = run.clock, run.meter, run.tracker, run.keeper, run.stream
    optim, first, say = config.optim, run.processes.first, run.processes.say

    # ------------------------------------------------------------------ where to begin
    state = run_state(run)
    if config.resume:
        found = state.resume(keeper.folder)
        tracker.rewind(clock.step if found else -1)
        if first:
            write_config(config, folder.name, folder)
        say(f"Resumed at step {clock.step} of {clock.total_steps}")
    if first:  # not before: a resume that is refused leaves all as it was
        save_tokenizer(run.bundle, folder)
        save_balance(run.stages.main, folder / "plan")
        write_provenance(folder, run.shards, run.stages.main.hash, run.accelerator.device, run.processes.world)
        write_whole(folder / "evaluation_sets.json", json.dumps(run.suite.sets_read(), indent=1, ensure_ascii=False))
    if clock.step == 0:
        tracker.keep(folder / "plan", "plan")
        tracker.log(as_metrics("data", run.stages.main.values()), 0, 0, 0)
        note_stage(run)
        evaluate(run)

    # ------------------------------------------------------------------ the loop
    batches, stop = iter(stream), False
    with (
        stop_on_signal() as stopped,
        ProgressLine("train", clock.total_samples, start=clock.samples, shown=first) as line,
    ):
        while not clock.done:
            batch = meter.wait_for(batches)
            lr = learning_rate(
                clock.step, clock.total_steps, clock.warmup_steps, optim.lr, optim.lr * config.schedule.final_lr
            )
            set_learning_rate(run.optimizer, lr)
            value = train_step(run, batch)
            place.begun()
            clock.step += 1
            meter.add(batch, value)
            line.update(clock.batch, meter.note())
            if clock.step % config.track.every == 0:
                scale = float(whole_tensor(trained.logit_scale.detach()).exp())  # type: ignore[operator]
                tracker.log(meter.metrics(lr, scale), clock.step, clock.epoch, clock.samples)
            if clock.at_epoch_end:
                end_epoch(run)
            elif stream.at_stage_end:
                note_accepted(run)
            if stream.at_stage_end:
                note_stage(run)
            stop, minutes_up = run.processes.any(bool(stopped), first and keeper.minutes_up)
            if keeper.due or minutes_up or stop:
                # After the evaluation, so that a checkpoint stands for all that was logged up to its step.
                save(run, state)
            if stop:
                break
    tracker.close()
    if stop:
        say(f"Stopped at step {clock.step}; go on with: {resume_command(config)}")
        return 128 + max(run.processes.gather(stopped[0] if stopped else 0))
    if first:
        say(f"{summarise(folder)}\nDone. Report: {folder / 'report.html'}")
    return 0


def prepare(
    config: Config,
    accelerator: Accelerator,
    processes: Processes,
    folder: Path,
    shards: list[str],
    held_out: HeldOut | None,
    precision: str,
    stopper: Stopper,
) -> Training:
    """Make all that the loop works with: evaluation sets, attributes and plan, model, optimiser and stream.

    Raises:
        UserError: bad input; nothing was trained yet.
    """
    world, first, say = processes.world, processes.first, processes.say
    for sentence in launcher_notes(world, os.environ):
        say(f"note: {sentence}")

    # ------------------------------------------------------------------ evaluation sets, attributes, plan
    suite = create_suite(config, held_out, shards)
    check_measured(named_metrics(config), suite)
    crowded = too_many_workers(config.data.workers * int(os.environ.get("LOCAL_WORLD_SIZE", world)))
    missing = missing_packages() if config.data.fast_decode else None
    for sentence in [*suite.skipped, *filter(None, [crowded, missing])]:
        say(f"note: {sentence}")
    with accelerator.main_process_first():  # the first labels the shards, the others find them labelled
        specs = stage_specs(config.stages, config.balance)
        stages = prepare_stages(specs, lambda wanted: prepare_data(config, wanted, shards, first))
    balance = stages.main
    say("\n".join(filter(None, [tell_held_out(config, balance, suite), balance.table()])))

    # ------------------------------------------------------------------ model, optimiser, stream
    set_seed(config.seed)
    bundle = create_model(config.model, accelerator.device, load=not goes_on(config))
    cut = find_cut_captions(shards, bundle, config.attributes).sentence() if first else ""
    for sentence in [*bundle.notes, *([cut] if cut else [])]:
        say(f"note: {sentence}")
    lora = adapt(bundle.model, config.model.freeze, config.model.lora)
    make_batch = keep_tower_outputs(config, shards, stages, bundle, accelerator, precision)
    optim = config.optim
    ema = None if config.model.ema is None else Ema(bundle.model, config.model.ema)
    sharded = Sharded(bundle.model, accelerator.device, world) if config.fsdp else None
    trained = bundle.model if sharded is None else sharded.parts
    optimizer = create_optimizer(
        trained, optim.lr, optim.weight_decay, (optim.beta1, optim.beta2), optim.eps, optim.layer_decay
    )
    check_accumulation(bundle.model, optim.accumulate, config.data.batch_size)
    if config.compile:
        bundle.model.compile()  # in place, so that checkpoints keep the names of the weights
    if sharded is None:
        model, optimizer = accelerator.prepare(trained, optimizer)
    else:
        model = accelerator.prepare_model(trained, evaluation_mode=True)  # its precision, and no DDP around it
    loss = ContrastiveLoss(bundle.loss, processes.rank, world, chunks=optim.accumulate)
    schedule = config.schedule
    epoch_samples = schedule.epoch_samples or stages.expected
    clock = Clock(epoch_samples, config.data.batch_size * world, schedule.epochs, schedule.warmup)
    stream = create_stream(config, shards, stages, bundle, processes, clock, make_batch)
    meter = Meter(clock, balance.s_names, balance.y_names, config.data.max_bad, processes)
    keeper = create_keeper(config, folder, clock)
    tracker = Tracker(folder, first, folder.name, as_dict(config))
    return Training(
        config,
        accelerator,
        processes,
        folder,
        shards,
        suite,
        stages,
        bundle,
        model,
        trained,
        optimizer,
        loss,
        stream,
        clock,
        meter,
        tracker,
        keeper,
        stopper,
        ema,
        lora,
        sharded,
    )


def train_step(run: Training, batch: Batch) -> torch.Tensor:
    """One step: forward, contrastive loss in float32, backward, clip, update; the loss."""
    accelerator, device, optim = run.accelerator, run.accelerator.device, run.config.optim
    given = (batch.images, run.bundle.trim(batch.tokens))
    images, tokens = (part.to(device, non_blocking=True) for part in given)
    with attention(device):
        value = backward(
            accelerator, run.model, run.loss, images, tokens, batch.weights, optim.accumulate, run.bundle.normalise
        )
    if optim.grad_clip is not None:
        accelerator.clip_grad_norm_(run.model.parameters(), optim.grad_clip)
    run.optimizer.step()
    run.optimizer.zero_grad(set_to_none=True)
    with torch.no_grad():
        run.trained.logit_scale.clamp_(0, MAX_LOGIT_SCALE)  # type: ignore[operator]
    if run.ema is not None:
        run.ema.update()
    return value


def end_epoch(run: Training) -> None:
    """Hold what was accepted against the plan, and evaluate where an evaluation is due."""
    clock = run.clock
    note_accepted(run)
    if clock.epoch_number % run.config.eval.every == 0 or clock.done:
        evaluate(run)
    run.meter.restart()


def note_accepted(run: Training) -> None:
    """Hold what was accepted since the last time against the plan of the stage, and begin anew."""
    run.meter.check_finite()
    clock, balance = run.clock, run.stages.balances[run.stream.stage]
    accepted = balance.compare(over_processes(run.meter.accepted, run.processes.gather))
    run.tracker.log(as_metrics("accepted", accepted), clock.step, clock.epoch, clock.samples)
    run.meter.restart()


def note_stage(run: Training) -> None:
    """Log the stage that begins at this step."""
    clock = run.clock
    if len(run.stages.specs) > 1 and not clock.done:
        stage = Metric("train/stage", run.stream.stage_at(clock.step))
        run.tracker.log([stage], clock.step, clock.epoch, clock.samples)


def evaluate(run: Training) -> dict[str, float]:
    """Measure the model, log it, and write the report anew; the metrics' values by name."""
    processes, clock = run.processes, run.clock
    if run.sharded is not None:
        run.sharded.gather()
    with run.ema.applied() if run.ema is not None else contextlib.nullcontext():
        metrics = run.suite.run(run.bundle, run.accelerator.device, processes.rank, processes.world)
    metrics += run.stopper.judge(metrics)
    clock.ended = run.stopper.outcome is not None
    run.tracker.log(metrics, clock.step, clock.epoch, clock.samples)
    if clock.done and run.stopper.wanted:
        processes.say(run.stopper.sentence(clock.samples, metrics))
        if processes.first:
            write_outcome(run.folder, run.stopper, clock.samples, metrics)
    values = {metric.name: metric.value for metric in metrics}
    run.keeper.note(values)
    if processes.first:
        pages = run.suite.pages.items()
        figures = {f"{name}: {title}": html for name, parts in pages for title, html in parts.items()}
        write_report(run.folder, figures)
    return values


def run_state(run: Training) -> RunState:
    """All that a run needs to go on."""
    scaler = {} if run.accelerator.scaler is None else {"scaler": run.accelerator.scaler}  # of the loss, in fp16
    if run.sharded is None:
        model: dict[str, Stateful] = {"model": run.bundle.model, "optimizer": run.optimizer}
    else:
        model = {"model": run.sharded, "optimizer_by_name": ShardedOptimizer(run.sharded.parts, run.optimizer)}
    return RunState(
        shared={
            **model,
            **scaler,
            "tracker": run.tracker,
            "stream": run.stream,
            "clock": run.clock,
            "keeper": run.keeper,
            "stopper": run.stopper,
            **({} if run.ema is None else {"ema": run.ema}),
        },
        own={"meter": run.meter},
        facts={"model_config": run.bundle.config, "lora_scale": None if run.lora is None else run.lora.scale},
        plan=run.stages.hash,
        processes=run.processes,
    )


def save(run: Training, state: RunState) -> None:
    """Write a checkpoint, unless training has gone wrong since the last one."""
    run.meter.check_finite()
    whole = state.state_dict()
    check_weights(run.bundle.model, run.clock.step)
    if run.processes.first:
        run.keeper.save(whole)
    run.keeper.restart()


if __name__ == "__main__":
    launch(main)
