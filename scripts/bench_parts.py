"""What each part of the trainer gains on a CPU: one is taken away at a time, in one process, round after round.

All times are CPU seconds of one thread per image, of the training step and of the loader worker, so that a busy
machine disturbs them little; on a machine where each has a core of its own the larger of the two decides.
"""

import contextlib
import io
import resource
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any
from unittest import mock

import torch
from open_clip.transform import image_transform
from PIL import Image

from balance.stream import balanced
from balance.stream.balanced import BalancedStream, Batch, StreamConfig, decode_batch, uniform_rates
from models.factory import ModelBundle, create
from models.losses import ContrastiveLoss, contrastive_loss
from models.training.optimizer import create_optimizer
from models.training.precision import attention

OURS, PADDED = "as it is", "captions with their padding"
LOOP, KERNEL = "AdamW as a loop over parameters", "fused attention kernel"
FLOAT, TRANSFORM, FAST = "float32 batches", "open_clip's transform, float32 batches", "fast decode"
LOAD = 8  # times as many batches for the loader as for the step: starting a worker must not count
STEPS = (OURS, PADDED, LOOP, KERNEL, FLOAT)
LOADS = (OURS, FLOAT, TRANSFORM, FAST)


@dataclass(frozen=True)
class Parts:
    """What the measurements work on."""

    bundle: ModelBundle
    stream: Callable[[bool], BalancedStream]  # with fast decoding or without
    batches: int
    precision: torch.dtype | None


def prepare(
    shards: list[str],
    files: list[Path],
    name: str,
    model: Mapping[str, Any] | None,
    batch: int,
    batches: int,
    bf16: bool,
) -> Parts:
    """Build the model and say how to make its stream, with one loader worker."""
    bundle = create(name, model)
    config = StreamConfig(batch, bundle.image_size, workers=1)

    def stream(fast: bool) -> BalancedStream:
        return BalancedStream(shards, files, uniform_rates, replace(config, fast_decode=fast), bundle.tokenizer)

    return Parts(bundle, stream, batches, torch.bfloat16 if bf16 else None)


def measure_parts(parts: Parts, rounds: int) -> list[dict[str, dict[str, float]]]:
    """CPU milliseconds per image, by round, of `step` and `load`, by what was changed."""
    torch.set_num_threads(1)
    run_step = _steps(parts)
    found = []
    for number in range(rounds + 1):
        times = {
            "step": {name: run_step(name) for name in _turned(STEPS, number)},
            "load": {name: _load(parts, name) for name in _turned(LOADS, number)},
        }
        if number:  # the first round warms caches and kernels
            found.append(times)
    return found


def _turned(names: tuple[str, ...], by: int) -> tuple[str, ...]:
    """Another order in each round, so that none always follows the same."""
    by %= len(names)
    return names[by:] + names[:by]


def gains(rounds: list[dict[str, dict[str, float]]]) -> list[tuple[str, float, float, float]]:
    """Rows: what was changed, step and load in ms per image, and how many times the whole of both takes then."""
    rows = []
    for name in dict.fromkeys(STEPS + LOADS):
        pairs = [(_time(times, "step", name), _time(times, "load", name), times) for times in rounds]
        wholes = [(step + load) / (times["step"][OURS] + times["load"][OURS]) for step, load, times in pairs]
        rows.append((name, median(step for step, *_ in pairs), median(load for _, load, _ in pairs), median(wholes)))
    return rows


def _time(times: dict[str, dict[str, float]], kind: str, name: str) -> float:
    name = FLOAT if (kind, name) == ("step", TRANSFORM) else name  # the trainer sees the same batches
    return times[kind].get(name, times[kind][OURS])


def _steps(parts: Parts) -> Callable[[str], float]:
    """A function that runs some steps with one thing changed and gives their time."""
    bundle, model = parts.bundle, parts.bundle.model
    batch = next(iter(parts.stream(False)))
    floats = bundle.normalise(batch.images)
    loss = ContrastiveLoss(bundle.loss)
    fused = create_optimizer(model, 1e-4, 0.1, (0.9, 0.98), 1e-6)
    groups = [{"params": group["params"], "weight_decay": group["weight_decay"]} for group in fused.param_groups]
    loop = torch.optim.AdamW(groups, lr=1e-4, betas=(0.9, 0.98), eps=1e-6)  # torch's default, and open_clip's

    def step(name: str) -> None:
        optimizer = loop if name == LOOP else fused
        pixels = floats if name == FLOAT else bundle.normalise(batch.images)
        kernels = contextlib.nullcontext() if name == KERNEL else attention(torch.device("cpu"))
        with kernels:
            with torch.autocast("cpu", parts.precision, enabled=parts.precision is not None):
                output = model(pixels, batch.tokens if name == PADDED else bundle.trim(batch.tokens))
            contrastive_loss(loss, output).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    def run(name: str) -> float:
        started = time.process_time()
        for _ in range(parts.batches):
            step(name)
        return 1000 * (time.process_time() - started) / (parts.batches * len(batch.images))

    return run


def _load(parts: Parts, name: str) -> float:
    """Time of the loader worker and of taking its batches, in ms per image."""
    started, images, transform = _cpu(), 0, image_transform(parts.bundle.image_size, is_train=True)
    stream = parts.stream(name == FAST)

    def open_clip_transform(image: bytes, *rest: Any, **options: Any) -> Any:
        return transform(Image.open(io.BytesIO(image))).numpy()

    def floats(*arguments: Any) -> Batch:
        batch = decode_batch(*arguments)
        batch.images = parts.bundle.normalise(batch.images)
        return batch

    if name == FLOAT:
        stream.make_batch = floats
    # The loader worker is forked, and inherits what is patched here.
    decoder = open_clip_transform if name == TRANSFORM else balanced.decode_train
    with mock.patch.object(balanced, "decode_train", decoder):
        batches = iter(stream)
        for batch in islice(batches, LOAD * parts.batches):
            images += len(batch.images)
        del batches  # ends the worker, whose time counts from then on
    return 1000 * (_cpu() - started) / images


def _cpu() -> float:
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime
