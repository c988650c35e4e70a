"""Train a CLIP or SigLIP model on balanced image-text data and measure its bias and quality after every epoch.

    python train.py name=mine data=wds 'data.train=shards/train-{00000..00099}.tar' attributes=captions

The story from top to bottom: configuration -> attributes -> plan -> model -> stream -> loop -> evaluation.
Everything that can be known to be wrong is checked before the first step.
"""

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import InitProcessGroupKwargs, set_seed

from balance.labels.attributes import read_meta
from balance.prepare import Balance, prepare_balance, save_balance
from balance.progress import ProgressLine
from balance.stages import StagedStream, Stages, StageSpec, prepare_stages, resolve_stages, stage_specs
from balance.stream.accepted import over_processes
from balance.stream.balanced import BalancedStream, Batch, StreamConfig
from balance.stream.features import FeatureBatches, prepare_features
from balance.stream.scaled import missing_packages
from balance.stream.shards import expand_shards
from conf.cli import launch
from conf.run import as_dict, check_run, create_folder, make_up_name, write_config
from conf.schema import Config
from eval.dry_run import dry_run
from eval.meter import Meter
from eval.metric import Metric, as_metrics
from eval.provenance import write_provenance
from eval.report import write_report
from eval.runner import Suite, build_suite
from eval.stopping import Stopper, write_outcome
from eval.track import Tracker
from models.accumulate import backward, check_accumulation
from models.adapt import Lora, adapt, check_adaptation
from models.cached import KeptTowers, freeze_towers, keep_outputs
from models.checkpoint import check_weights, list_checkpoints
from models.clock import Clock
from models.ema import Ema, check_ema
from models.factory import ModelBundle, check_model_name, create
from models.keeper import Keeper
from models.losses import ContrastiveLoss
from models.optim import create_optimizer, learning_rate, set_learning_rate
from models.precision import HALF, MODES, attention, leave_cores_to_workers, resolve_device, resolve_precision
from models.processes import PATIENCE, Processes
from models.shard import Sharded, ShardedOptimizer, check_sharding, whole_tensor
from models.signals import stop_on_signal
from models.start import FROM, find_start, take_architecture
from models.state import RunState, Stateful

MAX_LOGIT_SCALE = 4.6052  # log 100, as CLIP clamps it


@dataclass
class Training:
    """What the loop works with; made in `main`, in this order."""

    config: Config
    accelerator: Accelerator
    processes: Processes
    folder: Path
    suite: Suite
    stages: Stages
    bundle: ModelBundle
    model: torch.nn.Module  # the bundle's model as accelerate prepared it
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
    check_run(config)
    config.stages = resolve_stages(config.stages, config.stage.share, config.stage.order, config.balance)
    specs = stage_specs(config.stages, config.balance)
    device = resolve_device(config.device)
    precision = resolve_precision(config.precision, device)
    leave_cores_to_workers(device, config.data.workers)
    check_model(config)
    shards = expand_shards(config.data.train, "data.train", config.data.allow_pipe)
    held_out = None
    if config.data.eval is not None:
        held_out = expand_shards(config.data.eval, "data.eval", config.data.allow_pipe)

    # ------------------------------------------------------------------ processes and the run's folder
    accelerator = Accelerator(
        mixed_precision=MODES[precision],
        cpu=device.type == "cpu",
        kwargs_handlers=[InitProcessGroupKwargs(timeout=PATIENCE)],
    )
    processes = Processes()
    world, first, say = processes.world, processes.first, processes.say
    if config.fsdp:
        wanted = config.model
        others = {"model.ema": wanted.ema, "model.lora": wanted.lora, "model.keep_outputs": wanted.keep_outputs}
        check_sharding(world, precision, others)
    if config.dry_run:
        return rehearse(config, specs, shards, held_out, device, precision, processes)
    name = processes.agree(config.name or make_up_name(config))
    folder = Path(config.runs) / name
    if first:
        create_folder(config, name)
    accelerator.wait_for_everyone()
    say(f"Run {name}: {config.model.name} on {len(shards)} shards, {world} process(es), {device.type}, {precision}")

    # ------------------------------------------------------------------ evaluation sets, attributes, plan
    suite = _build_suite(config, held_out)
    missing = missing_packages() if config.data.fast_decode else None
    for sentence in [*suite.skipped, *([missing] if missing else [])]:
        say(f"note: {sentence}")
    with accelerator.main_process_first():  # the first labels the shards, the others find them labelled
        stages = prepare_stages(specs, lambda wanted: _prepare_balance(config, wanted, shards, first))
    balance = stages.main
    if first:
        save_balance(balance, folder / "plan")
        write_provenance(folder, shards, balance.hash, accelerator.device, world)
    say(balance.table())

    # ------------------------------------------------------------------ model, optimiser, stream
    set_seed(config.seed)
    bundle = _create_model(config, accelerator.device, load=not goes_on(config))
    for sentence in bundle.notes:
        say(f"note: {sentence}")
    make_batch = _keep_outputs(config, shards, stages, bundle, accelerator, precision)
    optim = config.optim
    lora = adapt(bundle.model, config.model.freeze, config.model.lora)
    ema = None if config.model.ema is None else Ema(bundle.model, config.model.ema)
    sharded = Sharded(bundle.model, accelerator.device, world) if config.fsdp else None
    trained = bundle.model if sharded is None else sharded.parts
    optimizer = create_optimizer(
        trained, optim.lr, optim.weight_decay, (optim.beta1, optim.beta2), optim.eps, optim.layer_decay
    )
    check_accumulation(bundle.model, optim.accumulate, config.data.batch_size)
    if sharded is None:
        model, optimizer = accelerator.prepare(trained, optimizer)
    else:
        model = accelerator.prepare_model(trained, evaluation_mode=True)  # its precision, and no DDP around it
    loss = ContrastiveLoss(bundle.loss, processes.rank, world, chunks=optim.accumulate)
    schedule = config.schedule
    epoch_samples = schedule.epoch_samples or stages.expected
    clock = Clock(epoch_samples, config.data.batch_size * world, schedule.epochs, schedule.warmup)
    stream = _create_stream(config, shards, stages, bundle, processes, clock, make_batch)
    meter = Meter(clock, balance.s_names, balance.y_names, config.data.max_bad, processes)
    tracker = Tracker(folder, first, name, as_dict(config))
    keeper = _create_keeper(config, folder, clock)
    stopper = Stopper(config.stop.targets, config.stop.quality, config.stop.certain)
    run = Training(
        config,
        accelerator,
        processes,
        folder,
        suite,
        stages,
        bundle,
        model,
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

    # ------------------------------------------------------------------ where to begin
    state = run_state(run)
    if config.resume:
        found = state.resume(keeper.folder)
        tracker.rewind(clock.step if found else -1)
        if first:
            write_config(config, name, folder)
        say(f"Resumed at step {clock.step} of {clock.total_steps}")
    if clock.step == 0:
        tracker.keep(folder / "plan", "plan")
        tracker.log(as_metrics("data", balance.values()), 0, 0, 0)
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
                clock.step, clock.total_steps, clock.warmup_steps, optim.lr, optim.lr * schedule.final_lr
            )
            set_learning_rate(optimizer, lr)
            value = train_step(run, batch)
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
            stop, minutes_up = processes.any(bool(stopped), first and keeper.minutes_up)
            if keeper.due or minutes_up or stop:
                # After the evaluation, so that a checkpoint stands for all that was logged up to its step.
                save(run, state)
            if stop:
                break
    tracker.close()
    if stop:
        say(f"Stopped at step {clock.step}; go on with: name={name} resume=true")
        return 128 + max(processes.gather(stopped[0] if stopped else 0))
    say(f"Done. Report: {folder / 'report.html'}")
    return 0


def rehearse(
    config: Config,
    specs: list[StageSpec],
    shards: list[str],
    held_out: list[str] | None,
    device: torch.device,
    precision: str,
    processes: Processes,
) -> int:
    """Say what the run would take and what would go wrong, and start nothing."""
    if not processes.first:
        return 0
    suite = _build_suite(config, held_out)
    stages = prepare_stages(specs, lambda wanted: _prepare_balance(config, wanted, shards, True))
    print(stages.main.table())
    world = config.dry.processes or processes.world
    print(dry_run(config, shards, stages, suite, lambda: _blueprint(config), device, precision, world).text())
    return 0


def train_step(run: Training, batch: Batch) -> torch.Tensor:
    """One step: forward, contrastive loss in float32, backward, clip, update; the loss."""
    accelerator, device, optim = run.accelerator, run.accelerator.device, run.config.optim
    images, tokens = (part.to(device, non_blocking=True) for part in (batch.images, batch.tokens))
    with attention(device):
        value = backward(
            accelerator, run.model, run.loss, images, tokens, batch.weights, optim.accumulate, run.bundle.normalise
        )
    if optim.grad_clip is not None:
        accelerator.clip_grad_norm_(run.model.parameters(), optim.grad_clip)
    run.optimizer.step()
    run.optimizer.zero_grad(set_to_none=True)
    with torch.no_grad():
        trained = run.bundle.model if run.sharded is None else run.sharded.parts
        trained.logit_scale.clamp_(0, MAX_LOGIT_SCALE)  # type: ignore[operator]
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


def _prepare_balance(config: Config, wanted: dict[str, Any], shards: list[str], first: bool) -> Balance:
    cache = Path(config.runs) / "attributes"
    workers = config.data.workers if config.data.workers > 1 else 0  # one more process would only wait for this one
    return prepare_balance(shards, config.attributes, wanted, cache, config.data.max_bad, workers, first)


def check_model(config: Config) -> None:
    """Check the model's settings, and write down the architecture where it is that of the weights to start from.

    A run's configuration then says what is trained even when the weights it started from have gone.
    """
    wanted = config.model
    init_from = None if goes_on(config) else wanted.init_from
    check_model_name(wanted.name, wanted.config, wanted.pretrained, init_from)
    check_adaptation(wanted.freeze, wanted.lora)
    check_ema(wanted.ema)
    if init_from is None:
        return
    start = find_start(init_from)
    if wanted.name == FROM:
        wanted.name, wanted.config, wanted.preprocess, wanted.loss = take_architecture(
            start, wanted.preprocess, wanted.loss
        )
    elif wanted.preprocess is None:
        wanted.preprocess = start.preprocess() or None


def goes_on(config: Config) -> bool:
    """Whether a run goes on from a checkpoint of its own, so that it needs no other weights."""
    folder = Path(config.runs) / (config.name or "") / "checkpoints"
    return config.resume and bool(list_checkpoints(folder))


def _create_model(config: Config, device: torch.device, load: bool) -> ModelBundle:
    wanted = config.model
    return create(
        wanted.name,
        wanted.config,
        wanted.preprocess,
        wanted.pretrained,
        wanted.loss,
        wanted.context_length,
        device,
        wanted.init_from if load else None,
        wanted.image_size,
        load,
    )


def _keep_outputs(
    config: Config, shards: list[str], stages: Stages, bundle: ModelBundle, accelerator: Accelerator, precision: str
) -> FeatureBatches | None:
    """Freeze the towers and look their outputs up from now on, if that is wanted; computed where they are not there."""
    if not config.model.keep_outputs:
        return None
    freeze_towers(bundle.model)
    towers = KeptTowers(bundle, accelerator.device, HALF.get(precision))
    cache = Path(config.runs) / "features"
    samples = sum(read_meta(file)["samples"] for file in stages.main.files)
    with accelerator.main_process_first():
        files = prepare_features(shards, towers, cache, samples, accelerator.is_main_process)
    keep_outputs(bundle.model, cache / towers.fingerprint[:12] / "answers")
    return FeatureBatches(shards, files)


def _blueprint(config: Config) -> ModelBundle:
    """The model as it would be trained, without weights."""
    with torch.device("meta"):
        bundle = _create_model(config, torch.device("meta"), load=False)
        adapt(bundle.model, config.model.freeze, config.model.lora)
    if config.model.keep_outputs:
        freeze_towers(bundle.model)
    return bundle


def _create_stream(
    config: Config,
    shards: list[str],
    stages: Stages,
    bundle: ModelBundle,
    processes: Processes,
    clock: Clock,
    make_batch: FeatureBatches | None,
) -> StagedStream:
    wanted = _stream_config(config, bundle, processes)
    streams = [
        BalancedStream(shards, b.files, b.rates, wanted, bundle.tokenizer, b.weigh, make_batch) for b in stages.balances
    ]
    return StagedStream(streams, stages.ends(clock.total_steps))


def _stream_config(config: Config, bundle: ModelBundle, processes: Processes) -> StreamConfig:
    data = config.data
    return StreamConfig(
        batch_size=data.batch_size,
        image_size=bundle.image_size,
        seed=config.seed,
        workers=data.workers,
        shuffle=data.shuffle,
        scale=(data.scale[0], data.scale[1]),
        fast_decode=data.fast_decode,
        rank=processes.rank,
        world=processes.world,
    )


def _build_suite(config: Config, held_out: list[str] | None) -> Suite:
    wanted = config.eval
    return build_suite(wanted.sets, wanted.evaluators, wanted.bootstrap, wanted.batch_size, held_out)


def _create_keeper(config: Config, folder: Path, clock: Clock) -> Keeper:
    wanted = config.checkpoint
    return Keeper(
        folder / "checkpoints",
        clock,
        wanted.every_steps,
        wanted.every_minutes,
        wanted.every_epochs,
        wanted.keep,
        wanted.best,
        wanted.best_mode,
    )


if __name__ == "__main__":
    launch(main)
