"""A tiny run as a list of overrides, for tests of what people launch."""

import json
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

import train
from balance.common.metric import read_metrics
from conf.app.cli import compose
from tests.tiny import ATTRIBUTES, people_shards

MODEL = {
    "embed_dim": 8,
    # Patch dropout draws from torch's generator in every step, so that resume must restore it.
    "vision_cfg": {"image_size": 16, "layers": 1, "width": 16, "head_width": 8, "patch_size": 8, "patch_dropout": 0.5},
    "text_cfg": {"context_length": 12, "vocab_size": 49408, "width": 8, "heads": 2, "layers": 1},
}
EVALUATORS = (
    "{rb: {kind: parity, set: faces, prompts: {man: a man, woman: a woman}},"
    "ab: {kind: association, set: faces, label: gender, positive: woman, negative: man, concepts: [nurse, chef]},"
    "job: {kind: zeroshot, set: faces, label: occupation, classes: [nurse, doctor, chef]}}"
)


def make_world(folder: Path) -> Path:
    """Training shards and one labelled evaluation shard."""
    people_shards(folder / "train", [70, 50, 80])
    people_shards(folder / "eval", [30])
    return folder


def data_overrides(world: Path, runs: Path) -> list[str]:
    """A tiny run on these shards, whatever model and balance."""
    sources = json.dumps(ATTRIBUTES["sources"]).replace('"', "")
    return [
        "data=wds",
        f"data.train={world / 'train'}",
        f"data.eval={world / 'eval'}",
        "data.batch_size=16",
        "data.workers=0",
        "attributes=json",
        f"attributes.sources={sources}",
        f"eval.sets={{faces: {{path: {world / 'eval'}}}}}",
        f"eval.evaluators={EVALUATORS}",
        "eval.headline={rb: rb/mean_parity}",
        "eval.bootstrap=20",
        "track=none",
        "track.every=3",
        "precision=fp32",
        "device=cpu",
        f"runs={runs}",
    ]


def model_overrides() -> list[str]:
    """A model of two thousand weights beside its vocabulary."""
    return [f"model.config={json.dumps(MODEL)}".replace('"', ""), "model.name=test"]


def tiny_overrides(world: Path, runs: Path, *more: str) -> list[str]:
    """All of it, for one run of three epochs."""
    balanced = [] if "balance=none" in more else ["balance.min_concept_samples=5"]
    return once([*data_overrides(world, runs), *model_overrides(), *balanced, "schedule.epochs=3", *more])


def once(arguments: Sequence[str]) -> list[str]:
    """The arguments, of those that set a key several times the last; a command line refuses a key given twice."""
    last = {argument.partition("=")[0]: argument for argument in arguments}
    return [argument for argument in dict.fromkeys(arguments) if last[argument.partition("=")[0]] == argument]


def run(world: Path, runs: Path, *more: str) -> int:
    """Such a run; its exit status."""
    return train.main(compose(tiny_overrides(world, runs, *more)))


def terminate() -> None:
    """What a batch system does to a job whose time is over."""
    os.kill(os.getpid(), signal.SIGTERM)


def power_cut() -> None:
    """An end of which a run knows nothing beforehand."""
    raise RuntimeError("power cut")


@contextmanager
def before_step(step: int, event: Callable[[], None]) -> Iterator[None]:
    """Let something happen to a run just before it takes its step of this number, counted from 1."""
    original, calls = train.Trainer.step, 0

    def disturbed(*arguments: Any) -> torch.Tensor:
        nonlocal calls
        calls += 1
        if calls == step:
            event()
        return original(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train.Trainer, "step", disturbed)
        yield


def measured(folder: Path) -> list[dict[str, Any]]:
    """All metrics of a run but those of speed."""
    timed = ("train/samples_per_second", "train/data_wait", "eval/seconds")
    return [row for row in read_metrics(folder / "metrics.jsonl") if row["name"] not in timed]
