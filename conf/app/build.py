"""The parts of a run, made from its configuration: what `train.py` puts together and scripts take single parts of."""

from pathlib import Path
from typing import Any

import torch

from balance.files import whole_folder
from balance.labels.attributes import read_meta
from balance.prepare import Balance, prepare_balance
from balance.stages import StagedStream, Stages
from balance.stream.balanced import BalancedStream, StreamConfig
from balance.stream.features import FeatureBatches, prepare_features
from balance.stream.shards import expand_shards, shared_shards
from conf.app.saved_config import stored_model
from conf.app.schema import Config, ModelConfig
from eval.runner import HELD_OUT, Suite, build_suite
from eval.sets import HeldOut
from models.adapt import adapt, check_adaptation, freeze_both
from models.cached import KeptTowers, keep_outputs
from models.checkpoint import list_checkpoints
from models.factory import ModelBundle, agree, check_model_name, create
from models.hf_tokenizer import FOLDER as TOKENIZER
from models.hf_tokenizer import FolderTokenizer
from models.start import FROM, find_start, take_architecture
from models.training.checkpoint_manager import CheckpointManager
from models.training.distributed import Processes
from models.training.precision import HALF
from models.training.progress import TrainingProgress


def find_held_out(config: Config, shards: list[str]) -> HeldOut | None:
    """What a run holds back to be measured on: the shards of data.eval, or else a share of those it trains on."""
    data = config.data
    if data.eval is not None:
        return HeldOut(expand_shards(data.eval, "data.eval", data.allow_pipe))
    return HeldOut(shards, data.holdout) if data.holdout else None


def holdout_of(config: Config) -> float:
    """The share of the training data that is held out of it."""
    return config.data.holdout if config.data.eval is None else 0.0


def tell_held_out(config: Config, balance: Balance, suite: Suite) -> str:
    """How much of the data is held out, and how much of that is measured, in a sentence; empty where nothing is."""
    if not holdout_of(config):
        return ""
    whole = balance.samples + balance.held
    measured = len(suite.sets[HELD_OUT]) if HELD_OUT in suite.sets else 0
    return (
        f"Held out by key: {balance.held:,} of {whole:,} samples ({balance.held / whole:.2%}; "
        f"data.holdout={config.data.holdout:g}), never trained on; evaluations measure {measured:,} of them."
    )


def prepare_data(config: Config, wanted: dict[str, Any], shards: list[str], first: bool) -> Balance:
    """Label the shards and solve the plan of one stage."""
    cache = Path(config.runs) / "attributes"
    workers = config.data.workers if config.data.workers > 1 else 0  # one more process would only wait for this one
    bad, holdout = config.data.max_bad, holdout_of(config)
    return prepare_balance(shards, config.attributes, wanted, cache, bad, workers, first, holdout)


def check_model(config: Config) -> list[str]:
    """Check the model's settings, and write down what the weights to start from say of their architecture.

    A run's configuration then says what is trained even when the weights it started from have gone.

    Returns:
        What of the architecture was taken from the weights, a sentence each.
    """
    wanted = config.model
    kept = Path(config.runs) / str(config.name) / TOKENIZER
    if continues(config) and kept.is_dir():
        wanted.tokenizer = str(kept)
    if continues(config) and wanted.name == FROM:
        wanted.name, wanted.config, wanted.preprocess, wanted.loss = stored_model(Path(config.runs) / str(config.name))
    init_from = None if continues(config) else wanted.init_from
    check_model_name(wanted.name, wanted.config, wanted.pretrained, init_from)
    if wanted.keep_outputs:
        wanted.freeze = freeze_both(wanted.freeze)
    check_adaptation(wanted.freeze, wanted.lora)
    if init_from is None:
        return []
    start = find_start(init_from)
    if wanted.tokenizer is None and (folder := start.tokenizer_folder()) is not None:
        wanted.tokenizer = str(folder)
    if wanted.name == FROM:
        wanted.name, wanted.config, wanted.preprocess, wanted.loss = take_architecture(
            start, wanted.preprocess, wanted.loss
        )
        return []
    wanted.config, wanted.preprocess, notes = agree(wanted.name, wanted.config, wanted.preprocess, start)
    return notes


def continues(config: Config) -> bool:
    """Whether a run goes on from a checkpoint of its own, so that it needs no other weights."""
    folder = Path(config.runs) / (config.name or "") / "checkpoints"
    return config.resume and bool(list_checkpoints(folder))


def create_model(wanted: ModelConfig, device: torch.device, load: bool = True) -> ModelBundle:
    """Build a model; with `load` also read the weights that it starts from."""
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
        wanted.trim_text,
        wanted.tokenizer,
    )


def save_tokenizer(bundle: ModelBundle, folder: Path) -> None:
    """Keep the tokenizer that the weights came with in the run's folder, which then needs its source no more."""
    tokenizer = bundle.tokenizer
    if isinstance(tokenizer, FolderTokenizer) and not (folder / TOKENIZER).exists():
        with whole_folder(folder / TOKENIZER) as part:
            tokenizer.save_pretrained(part)


def keep_tower_outputs(
    config: Config,
    shards: list[str],
    stages: Stages,
    bundle: ModelBundle,
    processes: Processes,
    device: torch.device,
    precision: str,
) -> FeatureBatches | None:
    """Compute and cache the frozen towers' outputs with model.keep_outputs, and look them up from now on."""
    if not config.model.keep_outputs:
        return None
    towers = KeptTowers(bundle, device, HALF.get(precision))
    cache = Path(config.runs) / "features"
    samples = sum(read_meta(file)["samples"] for file in stages.main.files)
    with processes.first_before_others():
        files = prepare_features(shards, towers, cache, samples, processes.first)
    keep_outputs(bundle.model, cache / towers.fingerprint[:12] / "answers")
    return FeatureBatches(shards, files)


def blueprint(config: Config) -> ModelBundle:
    """The model as it would be trained, without weights."""
    with torch.device("meta"):
        bundle = create_model(config.model, torch.device("meta"), load=False)
        adapt(bundle.model, config.model.freeze, config.model.lora)
    return bundle


def create_stream(
    config: Config,
    shards: list[str],
    stages: Stages,
    bundle: ModelBundle,
    processes: Processes,
    progress: TrainingProgress,
    make_batch: FeatureBatches | None,
) -> StagedStream:
    """The balanced streams of all stages, one after another."""
    wanted = _stream_config(config, bundle, processes)
    streams = [
        BalancedStream(shards, b.files, b.rates, wanted, bundle.tokenizer, b.weigh, make_batch) for b in stages.balances
    ]
    return StagedStream(streams, stages.ends(progress.total_steps))


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
        holdout=holdout_of(config),
    )


def create_suite(config: Config, held_out: HeldOut | None, shards: list[str]) -> Suite:
    """The evaluators of the configuration, and what it measures on what is held out of the training data."""
    wanted = config.eval
    suite = build_suite(
        wanted.sets,
        wanted.evaluators,
        wanted.bootstrap,
        wanted.batch_size,
        held_out,
        allow_pipe=config.data.allow_pipe,
        max_bad=config.data.max_bad,
    )
    apart = held_out.shards if held_out is not None and held_out.share is None else []
    trained_on = shared_shards(apart, shards)
    if trained_on:
        suite.skipped.append(
            f"data.eval: {len(trained_on)} of its {len(apart):,} shards are in data.train, too, such as "
            f"{trained_on[0]}: what is measured on them was trained on."
        )
    return suite


def create_checkpoint_manager(config: Config, folder: Path, progress: TrainingProgress) -> CheckpointManager:
    """What decides when a checkpoint is written and which are kept."""
    wanted = config.checkpoint
    return CheckpointManager(
        folder / "checkpoints",
        progress,
        wanted.every_steps,
        wanted.every_minutes,
        wanted.every_epochs,
        wanted.keep,
        wanted.best,
        wanted.best_mode,
    )
