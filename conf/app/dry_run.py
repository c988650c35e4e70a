"""What a run would take, and what would go wrong, told without starting it.

The data is labelled and the plan solved as in the run itself (labels are kept, so that the run finds them); the model
is measured without weights; evaluators are asked for what they would embed. Nothing is written into a run's folder.
"""

import math
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from balance.common.metric import Metric
from balance.common.terminal import Table, say, terminal
from balance.common.workers import too_many_workers
from balance.errors import UserError
from balance.labels.pictures import doubtful_labels
from balance.stages import Stages, prepare_stages
from conf.app.build import blueprint, create_suite, prepare_data, tell_held_out
from conf.app.cut_captions import cut_texts, find_cut_captions
from conf.app.run import not_begun
from conf.app.schema import Config
from conf.app.setup import Setup
from conf.app.stop_metrics import named_metrics
from eval.foreseen import ChanceEmbedder, check_measured
from eval.runner import Suite
from models.factory import ModelBundle
from models.training.cost import Cost, measure_cost, shape_of
from models.training.progress import TrainingProgress
from models.training.stopping import images_to_decide

GIB = 2**30
OFTEN = 40  # passes over the accepted samples from which on repeating them is worth a warning
FEW_BATCHES = 10  # in a pass over the data, below which steps are hardly those of a data set
FEW_IMAGES = 100  # in an evaluation set, below which its intervals tell little
WIDEST = 1.96  # half an interval times the root of the images, for a model that is sure of each
FEW = 0.1  # mean rate below which it is worth one, too


@dataclass
class DryRun:
    """What was found.

    Attributes:
        rows: (what, how much), in the order shown.
        warnings: what would go wrong or be wasted, a sentence each.
    """

    rows: list[tuple[str, str]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def add(self, what: str, value: str) -> None:
        """Add a row."""
        self.rows.append((what, value))

    def text(self) -> str:
        """The table, and the warnings below it."""
        table = Table("what the run would take", "", show_lines=False)
        for row in self.rows:
            table.add_row(*row)
        console = terminal(width=None if os.environ.get("COLUMNS") else 110, no_color=True)
        with console.capture() as capture:
            console.print(table)
        warnings = [f"warning: {sentence}" for sentence in self.warnings] or ["Nothing found that would go wrong."]
        return "\n".join([capture.get().rstrip(), *warnings, "Nothing was started."])


def rehearse(config: Config, setup: Setup) -> int:
    """Say what the run would take and what would go wrong, and start nothing; the exit status."""
    if not setup.processes.first:
        return 0
    shards = setup.shards
    suite = create_suite(config, setup.held_out, shards)
    stages = prepare_stages(setup.specs, lambda wanted: prepare_data(config, wanted, shards, True))
    say("\n".join(filter(None, [tell_held_out(config, stages.main, suite), stages.main.table()])))
    world = config.dry.processes or setup.processes.world
    found = dry_run(config, shards, stages, suite, lambda: blueprint(config), setup.device, setup.precision, world)
    say(found.text())
    return 0


def dry_run(
    config: Config,
    shards: Sequence[str],
    stages: Stages,
    suite: Suite,
    blueprint: Callable[[], ModelBundle],
    device: torch.device,
    precision: str,
    world: int,
) -> DryRun:
    """Find out what a run would take.

    Args:
        config: of the run.
        shards: its training shards.
        stages: its stages, solved.
        suite: its evaluators with their sets.
        blueprint: makes the model on the `meta` device, frozen where it would be.
        device: what the run would compute on.
        precision: in what.
        world: number of processes.
    """
    found = DryRun()
    cost, bundle = _model(found, config, blueprint, device, precision, world)
    progress = _schedule(found, config, stages, world)
    _data(found, config, shards, stages, progress, world)
    _evaluation(found, config, suite, bundle, cost, progress, world)
    if cost is not None:
        _disk(found, config, cost)
        if progress is not None:
            found.add("operations, training", f"{cost.step_flops * world * progress.total_steps:.3g} FLOP")
    if bundle is not None:
        cut = find_cut_captions(shards, bundle, config.attributes)
        found.add("captions cut by the tokenizer", cut.row())
        found.warnings += [cut.sentence()] if cut.sentence() else []
    _folder(found, config)
    return found


def _model(
    found: DryRun,
    config: Config,
    blueprint: Callable[[], ModelBundle],
    device: torch.device,
    precision: str,
    world: int,
) -> tuple[Cost | None, ModelBundle | None]:
    bundle = None
    try:
        bundle = blueprint()
        model, loss, size = bundle.model, bundle.loss, bundle.image_size
    except UserError as error:  # most likely a tokenizer that can't be downloaded here; the model can be measured
        found.warnings.append(" ".join(str(error).split()))
        shape = shape_of(config.model.name) if config.model.config is None else None
        if shape is None:
            return None, None
        model, loss, size = shape
    batch, parts = config.data.batch_size, config.optim.accumulate
    try:
        cost = measure_cost(model, loss, size, batch, precision, device.type, parts, world)
    except (RuntimeError, TypeError, AttributeError, NotImplementedError) as error:
        found.warnings.append(f"The cost of the model could not be measured ({type(error).__name__}: {error}).")
        return None, bundle
    found.add("model", f"{config.model.name}, {loss}, {size} px, {precision} on {device.type}")
    found.add("parameters, trained / frozen", f"{cost.trained:,} / {cost.frozen:,}")
    found.add("operations of a step of one process", f"{cost.step_flops:.3g} FLOP for {batch} samples")
    memory = (
        f"{cost.step_bytes / GIB:.2f} GiB: {cost.state_bytes / GIB:.2f} weights, gradients, moments, "
        f"{cost.activation_bytes / GIB:.2f} activations"
    )
    found.add("memory of a step (estimate)", memory)
    there = _memory(device)
    if there is not None and cost.step_bytes > there:
        found.warnings.append(
            f"A step needs about {cost.step_bytes / GIB:.1f} GiB and {device.type} has {there / GIB:.1f}; lower "
            "data.batch_size, or cut the batch by optim.accumulate."
        )
    return cost, bundle


def _memory(device: torch.device) -> int | None:
    """Bytes of the device, or of the machine."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(0).total_memory)
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return None


def _schedule(found: DryRun, config: Config, stages: Stages, world: int) -> TrainingProgress | None:
    schedule, batch = config.schedule, config.data.batch_size * world
    accepted = min(balance.expected for balance in stages.balances)
    found.add("samples of a step", f"{batch:,} = {config.data.batch_size} x {world} process(es)")
    if accepted < batch:
        found.warnings.append(
            f"A pass over the data accepts about {accepted:,} samples, fewer than one batch of {batch:,}; lower "
            "data.batch_size, raise the keep rate, or add data."
        )
    elif accepted < FEW_BATCHES * batch:
        found.warnings.append(
            f"A pass over the data accepts about {accepted:,} samples, which is {accepted / batch:.1f} batches of "
            f"{batch:,}: too little to train much on; lower data.batch_size, or add data."
        )
    try:
        progress = TrainingProgress(schedule.epoch_samples or stages.expected, batch, schedule.epochs, schedule.warmup)
        ends = stages.ends(progress.total_steps)
    except UserError as error:
        if accepted >= batch or schedule.epoch_samples is not None:
            found.warnings.append(str(error))
        return None
    found.add(
        "steps",
        f"{progress.total_steps:,} = {schedule.epochs} epochs x {progress.epoch_steps:,}, "
        f"{progress.warmup_steps:,} warm-up",
    )
    found.add("samples seen", f"{progress.total_samples:,}")
    for number, (spec, balance) in enumerate(zip(stages.specs, stages.balances, strict=True)):
        seen = (ends[number] - (ends[number - 1] if number else 0)) * batch
        passes = seen / max(balance.expected, 1)
        found.add(f"passes over what {spec.name} accepts", f"{passes:.1f} x {balance.expected:,}")
        if passes > OFTEN:
            found.warnings.append(
                f"Each sample that {spec.name} accepts would be seen about {passes:.0f} times; lower schedule.epochs, "
                "or raise the keep rate."
            )
    return progress


def _data(
    found: DryRun, config: Config, shards: Sequence[str], stages: Stages, progress: TrainingProgress | None, world: int
) -> None:
    readers = max(config.data.workers, 1) * world
    found.add("shards", f"{len(shards):,}, {len(shards) / readers:.1f} for each of {readers} readers")
    if len(shards) < readers:
        found.warnings.append(
            f"There are {len(shards)} shards for {readers} readers, so that some read parts of the same one and pass "
            "over the rest; make more and smaller shards, or lower data.workers."
        )
    crowded = too_many_workers(config.data.workers * world) if config.dry.processes is None else ""
    found.warnings += [*filter(None, [crowded]), *doubtful_labels(config.attributes)]
    for sentence in dict.fromkeys(one for balance in stages.balances for one in balance.losses):
        found.warnings.append(f"{sentence}.")
    for spec, balance in zip(stages.specs, stages.balances, strict=True):
        if balance.plan is not None and balance.plan.kept.all < FEW:
            found.warnings.append(
                f"{spec.name} keeps {balance.plan.kept.all:.1%} of the samples; loosen balance.eps_association, or set "
                "balance.keep."
            )
        held = balance.plan.violations if balance.plan is not None else []
        if held:
            found.warnings.append(f"{len(held)} constraints of {spec.name} can't be met; see the notes on the plan.")


def _evaluation(
    found: DryRun,
    config: Config,
    suite: Suite,
    bundle: ModelBundle | None,
    cost: Cost | None,
    progress: TrainingProgress | None,
    world: int,
) -> None:
    found.warnings += suite.skipped
    small = [f"{name} {len(data)}" for name, data in suite.sets.items() if len(data) < FEW_IMAGES]
    if small:
        found.warnings.append(
            f"Evaluation sets of fewer than {FEW_IMAGES} images ({', '.join(small)}): their figures will hardly tell "
            "runs apart; add images, or raise data.holdout."
        )
    if not suite.evaluators:
        found.warnings.append(
            "Nothing would be evaluated: no evaluation set is there, and neither data.eval nor data.holdout holds any."
        )
        return
    count, measured = ChanceEmbedder(bundle), list[Metric]()
    for evaluator in suite.evaluators:
        try:
            measured += list(evaluator(count, np.random.default_rng(0), 2))
        except Exception as error:  # an evaluator may need more of an embedder than can be pretended
            found.warnings.append(f"The cost of {evaluator.name} is not known ({type(error).__name__}: {error}).")
    found.warnings += undecidable(config, {metric.name: metric.count for metric in measured})
    times = 1 + (config.schedule.epochs // config.eval.every if progress is not None else 0)
    found.add("an evaluation", f"{len(count.pictures):,} pictures, {len(count.said):,} texts, {times} times")
    if cost is not None and progress is not None:
        once = len(count.pictures) * cost.image_flops + len(count.said) * cost.text_flops
        whole = cost.step_flops * world * progress.total_steps
        found.add("evaluation's share of all operations", f"{times * once / (whole + times * once):.1%}")
    try:
        check_measured(named_metrics(config), suite)
    except UserError as error:
        found.warnings.append(str(error))
    cut = cut_texts(bundle, list(count.said)) if bundle is not None else []
    if cut:
        found.warnings.append(f"The tokenizer cuts {len(cut)} prompt(s) of the evaluation, such as {cut[0]!r}.")


def undecidable(config: Config, counts: Mapping[str, int | None]) -> list[str]:
    """Targets that their sets are too small for: a sentence each, with the number of images that would do.

    A model that is sure of each image has the widest interval: its figures are of 1 and -1 for parity, and of 0 and 1
    on two sides for association, which gives 1.96 / sqrt(n) on either side of the value.
    """
    told = []
    for name, target in config.stop.targets.items():
        kind = (config.eval.evaluators.get(name.partition("/")[0]) or {}).get("kind")
        images = counts.get(name)
        if kind not in ("parity", "association") or not images:
            continue
        half = WIDEST / math.sqrt(images)
        if half > target:
            told.append(
                f"stop.targets.{name}={target:g} can't be decided on {images:,} images: the interval may be as wide as "
                f"the value ±{half:.2f}; about {images_to_decide(target, half, images):,} images would decide it."
            )
    return told


def _disk(found: DryRun, config: Config, cost: Cost) -> None:
    """A checkpoint holds the weights and two moments of the trained ones."""
    one = 4 * (cost.trained + cost.frozen) + 8 * cost.trained
    if config.model.ema is not None:
        one += 4 * cost.trained
    files = config.checkpoint.keep + 1 + (config.checkpoint.best is not None)  # one is written before one is removed
    where = Path(config.runs).absolute()
    while not where.exists():
        where = where.parent
    free = shutil.disk_usage(where).free
    found.add("disk for checkpoints", f"{files * one / GIB:.2f} GiB = {files} x {one / GIB:.2f}, {free / GIB:.0f} free")
    if files * one > free:
        found.warnings.append(
            f"The checkpoints take up to {files * one / GIB:.1f} GiB and {where} has {free / GIB:.1f} left; lower "
            "checkpoint.keep, or name another folder by runs=."
        )


def _folder(found: DryRun, config: Config) -> None:
    if config.name is not None and not config.resume and not config.overwrite:
        folder = Path(config.runs) / config.name
        if folder.exists() and not not_begun(folder):
            found.warnings.append(
                f"{folder} exists already; choose another name, or add resume=true or overwrite=true."
            )
