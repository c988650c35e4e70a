"""Train a CLIP or SigLIP model on balanced image-text data and measure its bias and quality after every epoch.

    python train.py name=mine data=wds 'data.train=shards/train-{00000..00099}.tar' attributes=captions

The story from top to bottom: configuration -> attributes -> plan -> model -> stream -> loop -> evaluation.
Everything that can be known to be wrong is checked before the first step.
"""

import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.utils import InitProcessGroupKwargs, set_seed

from balance.errors import UserError
from balance.prepare import Balance, prepare_balance, save_balance
from balance.progress import ProgressLine
from balance.stream.accepted import AcceptedMoments
from balance.stream.balanced import BalancedStream, StreamConfig
from balance.stream.shards import expand_shards
from conf.cli import launch
from conf.run import as_dict, check_run, create_folder, make_up_name, write_config
from conf.schema import Config
from eval.meter import Meter
from eval.metric import as_metrics
from eval.report import write_report
from eval.runner import Suite, build_suite
from eval.track import Tracker
from models.checkpoint import list_checkpoints, load_checkpoint, rng_state, save_checkpoint, set_rng_state
from models.clock import Clock
from models.factory import ModelBundle, check_model_name, create
from models.losses import contrastive_loss, create_loss
from models.optim import create_optimizer, learning_rate, set_learning_rate
from models.precision import MODES, attention, leave_cores_to_workers, resolve_device, resolve_precision

MAX_LOGIT_SCALE = 4.6052  # log 100, as CLIP clamps it


def main(config: Config) -> int:
    """Run one training run; the exit status (130 or 143 when stopped by a signal)."""
    # ------------------------------------------------------------------ what can be checked at once
    check_run(config)
    device = resolve_device(config.device)
    precision = resolve_precision(config.precision, device)
    leave_cores_to_workers(device, config.data.workers)
    check_model_name(config.model.name, config.model.config, config.model.pretrained)
    shards = expand_shards(config.data.train, "data.train", config.data.allow_pipe)
    held_out = None
    if config.data.eval is not None:
        held_out = expand_shards(config.data.eval, "data.eval", config.data.allow_pipe)

    # ------------------------------------------------------------------ processes and the run's folder
    accelerator = Accelerator(
        mixed_precision=MODES[precision],
        cpu=device.type == "cpu",
        kwargs_handlers=[InitProcessGroupKwargs(timeout=timedelta(hours=12))],
    )
    rank, world, first = accelerator.process_index, accelerator.num_processes, accelerator.is_main_process
    say: Callable[[str], None] = print if first else _silent
    name = _agree(config.name or make_up_name(config), world)
    folder = Path(config.runs) / name
    if first:
        create_folder(config, name)
    accelerator.wait_for_everyone()
    say(f"Run {name}: {config.model.name} on {len(shards)} shards, {world} process(es), {device.type}, {precision}")

    # ------------------------------------------------------------------ evaluation sets, attributes, plan
    suite = _build_suite(config, held_out)
    for sentence in suite.skipped:
        say(f"note: {sentence}")
    with accelerator.main_process_first():  # the first labels the shards, the others find them labelled
        balance = _prepare_balance(config, shards, first)
    if first:
        save_balance(balance, folder / "plan")
    say(balance.table())

    # ------------------------------------------------------------------ model, optimiser, stream
    set_seed(config.seed)
    bundle = _create_model(config, accelerator.device)
    optim = config.optim
    optimizer = create_optimizer(bundle.model, optim.lr, optim.weight_decay, (optim.beta1, optim.beta2), optim.eps)
    model, optimizer = accelerator.prepare(bundle.model, optimizer)
    loss = create_loss(bundle.loss, rank, world)
    stream = BalancedStream(
        shards, balance.files, balance.rates, _stream_config(config, bundle, rank, world), bundle.tokenizer
    )
    schedule = config.schedule
    epoch_samples = schedule.epoch_samples or balance.expected
    clock = Clock(epoch_samples, config.data.batch_size * world, schedule.epochs, schedule.warmup)
    tracker = Tracker(folder, first, name, as_dict(config))
    meter = Meter(clock, balance.s_names, balance.y_names, config.data.max_bad)
    if config.resume:
        _resume(folder, bundle, optimizer, stream, clock, meter, tracker, balance, accelerator.device)
        if first:
            write_config(config, name, folder)
        say(f"Resumed at step {clock.step} of {clock.total_steps}")

    # ------------------------------------------------------------------ the loop
    if clock.step == 0:
        tracker.keep(folder / "plan", "plan")
        tracker.log(as_metrics("data", balance.values()), 0, 0, 0)
        evaluate(suite, bundle, accelerator, tracker, clock, folder)
    training = ProgressLine("train", clock.total_samples, start=clock.samples, shown=first)
    with stop_on_signal() as stopped, training:
        batches = iter(stream)
        while clock.step < clock.total_steps:
            waiting = time.perf_counter()
            batch = next(batches)
            meter.wait += time.perf_counter() - waiting
            lr = learning_rate(
                clock.step, clock.total_steps, clock.warmup_steps, optim.lr, optim.lr * config.schedule.final_lr
            )
            set_learning_rate(optimizer, lr)
            value = train_step(accelerator, model, bundle, optimizer, loss, batch.images, batch.tokens, optim.grad_clip)
            clock.step += 1
            meter.add(batch, value)
            training.update(clock.batch, meter.note())
            if clock.step % config.track.every == 0:
                scale = float(bundle.model.logit_scale.detach().exp())  # type: ignore[operator]
                tracker.log(meter.metrics(lr, scale), clock.step, clock.epoch, clock.samples)
            stop = _any(bool(stopped), world, accelerator.device)
            if clock.at_epoch_end:
                accepted = as_metrics("accepted", balance.compare(_over_processes(meter.accepted, world)))
                tracker.log(accepted, clock.step, clock.epoch, clock.samples)
                if clock.epoch_number % config.eval.every == 0 or clock.step == clock.total_steps:
                    evaluate(suite, bundle, accelerator, tracker, clock, folder)
                meter.restart()
            if (clock.at_epoch_end or stop) and first:
                # After the evaluation, so that a checkpoint stands for all that was logged up to its step.
                state = _state(bundle, optimizer, stream, clock, meter, balance)
                save_checkpoint(folder / "checkpoints", clock.step, state, config.keep_checkpoints)
            if stop:
                break
    tracker.close()
    if stopped:
        say(f"Stopped at step {clock.step}; go on with: name={name} resume=true")
        return 128 + stopped[0]
    say(f"Done. Report: {folder / 'report.html'}")
    return 0


def train_step(
    accelerator: Accelerator,
    model: torch.nn.Module,
    bundle: ModelBundle,
    optimizer: torch.optim.Optimizer,
    loss: torch.nn.Module,
    images: torch.Tensor,
    tokens: torch.Tensor,
    grad_clip: float | None,
) -> torch.Tensor:
    """One step: forward, contrastive loss in float32, backward, clip, update; the loss."""
    device = accelerator.device
    pixels = bundle.normalise(images.to(device, non_blocking=True))
    with attention(device):
        output = model(pixels, tokens.to(device, non_blocking=True))  # in the prepared model's precision
        value = contrastive_loss(loss, output)
        accelerator.backward(value)
    if grad_clip is not None:
        accelerator.clip_grad_norm_(model.parameters(), grad_clip)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    with torch.no_grad():
        bundle.model.logit_scale.clamp_(0, MAX_LOGIT_SCALE)  # type: ignore[operator]
    return value.detach()


def evaluate(
    suite: Suite, bundle: ModelBundle, accelerator: Accelerator, tracker: Tracker, clock: Clock, folder: Path
) -> None:
    """Measure the model, log it, and write the report anew."""
    metrics = suite.run(bundle, accelerator.device, accelerator.process_index, accelerator.num_processes)
    tracker.log(metrics, clock.step, clock.epoch, clock.samples)
    if accelerator.is_main_process:
        write_report(folder)


@contextmanager
def stop_on_signal() -> Iterator[list[int]]:
    """Note the first SIGINT or SIGTERM, so that the step in progress ends; a second one acts as usual."""
    received: list[int] = []
    before: dict[signal.Signals, Any] = {}

    def note(number: int, frame: object) -> None:
        received.append(number)
        signal.signal(number, before[signal.Signals(number)])
        print("\nStopping after this step; a checkpoint will be written.", file=sys.stderr, flush=True)

    for wanted in (signal.SIGINT, signal.SIGTERM):
        before[wanted] = signal.signal(wanted, note)
    try:
        yield received
    finally:
        for known, handler in before.items():
            signal.signal(known, handler)


def _prepare_balance(config: Config, shards: list[str], first: bool) -> Balance:
    cache = Path(config.runs) / "attributes"
    workers = config.data.workers if config.data.workers > 1 else 0  # one more process would only wait for this one
    return prepare_balance(shards, config.attributes, config.balance, cache, config.data.max_bad, workers, first)


def _create_model(config: Config, device: torch.device) -> ModelBundle:
    wanted = config.model
    return create(
        wanted.name, wanted.config, wanted.preprocess, wanted.pretrained, wanted.loss, wanted.context_length, device
    )


def _stream_config(config: Config, bundle: ModelBundle, rank: int, world: int) -> StreamConfig:
    data = config.data
    return StreamConfig(
        batch_size=data.batch_size,
        image_size=bundle.image_size,
        seed=config.seed,
        workers=data.workers,
        shuffle=data.shuffle,
        scale=(data.scale[0], data.scale[1]),
        fast_decode=data.fast_decode,
        rank=rank,
        world=world,
    )


def _build_suite(config: Config, held_out: list[str] | None) -> Suite:
    wanted = config.eval
    return build_suite(wanted.sets, wanted.evaluators, wanted.bootstrap, wanted.batch_size, held_out)


def _state(
    bundle: ModelBundle, optimizer: Any, stream: BalancedStream, clock: Clock, meter: Meter, balance: Balance
) -> dict[str, Any]:
    """All that a run needs to go on."""
    return {
        "model": bundle.model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "stream": stream.state_dict(),
        "step": clock.step,
        "meter": meter.state_dict(),
        "plan": balance.hash,
        "rng": rng_state(),
        "model_config": bundle.config,
    }


def _resume(
    folder: Path,
    bundle: ModelBundle,
    optimizer: Any,
    stream: BalancedStream,
    clock: Clock,
    meter: Meter,
    tracker: Tracker,
    balance: Balance,
    device: torch.device,
) -> None:
    """Go on from the last checkpoint, or from the start if there is none yet."""
    saved = list_checkpoints(folder / "checkpoints")
    if not saved:
        tracker.rewind(-1)
        return
    state = load_checkpoint(saved[-1], device)
    if state["plan"] != balance.hash:
        raise UserError(
            f"{saved[-1]} was trained under another plan ({state['plan']}, now {balance.hash}): the data, its "
            "attributes or the balance settings have changed; restore them, or start a new run."
        )
    bundle.model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    stream.load_state_dict(state["stream"])
    set_rng_state(state["rng"])
    clock.step = state["step"]
    meter.load_state_dict(state["meter"])
    tracker.rewind(clock.step)


def _agree(name: str, world: int) -> str:
    """The first process's name of the run, on all processes."""
    if world == 1:
        return name
    names: list[Any] = [name]
    dist.broadcast_object_list(names)
    return str(names[0])


def _over_processes(mine: AcceptedMoments, world: int) -> AcceptedMoments:
    """The moments of what all processes accepted."""
    if world == 1:
        return mine
    parts: list[Any] = [None] * world
    dist.all_gather_object(parts, mine.sums())
    whole = AcceptedMoments(mine.s_names, mine.y_names)
    whole.load({name: sum(part[name] for part in parts) for name in parts[0]})
    return whole


def _any(flag: bool, world: int, device: torch.device) -> bool:
    """Whether the flag is up on any process."""
    if world == 1:
        return flag
    flags = torch.tensor([float(flag)], device=device)
    dist.all_reduce(flags, dist.ReduceOp.MAX)
    return bool(flags.item())


def _silent(text: str) -> None:
    """Say nothing: what processes other than the first do."""


if __name__ == "__main__":
    launch(main)
