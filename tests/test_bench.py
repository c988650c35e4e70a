"""The benchmarks measure what they say: equal work on both sides, and trainers' logs read right."""

import gc
from pathlib import Path

import pytest
import torch

from balance.errors import UserError
from balance.labels.annotate import annotate_shards
from balance.labels.annotators import build_annotator
from balance.stream.balanced import StreamConfig
from balance.stream.samples import parse_sample, read_shard
from scripts.bench_mfu import train_flops
from scripts.bench_parts import FAST, KERNEL, LOOP, OURS, TRANSFORM, gains, measure_parts, prepare
from scripts.bench_photos import make_photo_shards
from scripts.bench_stream import AFTER, ALL, BEFORE, PLAIN
from scripts.bench_stream import Task as StreamTask
from scripts.bench_trainers import STEP, Task, run_open_clip, run_ours, speed
from tests.tiny import ATTRIBUTES, people_shards

MODEL = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 16, "head_width": 8, "patch_size": 16},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}
LINE = (
    "2026-11-22,20:00:00 | INFO | Train Epoch: 0 [ 128/2048 (6%)] Data (t): 0.250 Batch (t): 1.000, 64.0000/s, "
    "64.0000/s/gpu LR: 0.000001 Logit Scale: 14.286 Contrastive_loss: 4.1 (4.1) Loss: 4.1 (4.1)"
)


def files_of(shards: list[str], folder: Path) -> list[Path]:
    return annotate_shards(shards, build_annotator(ATTRIBUTES), folder, progress=False)


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # WebDataset leaves shards open
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_all_ways_of_the_stream_make_the_same_images(tmp_path: Path) -> None:
    shards = people_shards(tmp_path, [120, 130])
    files = files_of(shards, tmp_path / "attributes")
    config = StreamConfig(10, 16, shuffle=50)
    task = StreamTask(shards, files, config, 0.6, lambda texts: torch.zeros(len(texts), 2))
    images = {name: task.run(name) for name in (PLAIN, ALL, AFTER, BEFORE)}
    assert images[PLAIN] == images[ALL] == 250
    assert images[AFTER] == images[BEFORE] == len(task.accepted()) // 10 * 10
    assert 100 < images[BEFORE] < 200
    gc.collect()


def test_open_clip_s_log_is_read() -> None:
    [(data, _, rate)] = STEP.findall(LINE)
    assert (float(data), float(rate)) == (0.25, 64)


def test_warm_up_is_left_out_and_a_run_that_fails_is_told() -> None:
    task = Task(("a.tar",), "small", None, 64, steps=2, warmup=1)
    found = speed(task, [(100.0, 100.0), (1.0, 0.5), (3.0, 0.5)], "it", "log", 1.0)
    assert (found.images, found.wait) == (32, 0.25)
    with pytest.raises(UserError, match="made 1 of 2 timed steps; its last words:\nsorry"):
        speed(task, [(1.0, 0.0)] * 2, "it", "sorry", 1.0)


def test_generated_photos_are_samples(tmp_path: Path) -> None:
    [shard] = make_photo_shards(tmp_path, 1, 3, 64, 48)
    samples = [parse_sample(raw) for raw in read_shard(shard)]
    assert [len(sample.captions) for sample in samples] == [5, 5, 5]
    written = Path(shard).stat().st_mtime_ns
    assert make_photo_shards(tmp_path, 1, 3, 64, 48) == [shard]
    assert Path(shard).stat().st_mtime_ns == written


def test_parts_are_taken_away_one_at_a_time(tmp_path: Path) -> None:
    shards = people_shards(tmp_path, [200])
    parts = prepare(shards, files_of(shards, tmp_path / "attributes"), "small", MODEL, 8, 1, bf16=False)
    rows = {name: (step, load, times) for name, step, load, times in gains(measure_parts(parts, 1))}
    assert rows[OURS][2] == 1
    assert rows[LOOP][1] == rows[KERNEL][1] == rows[OURS][1]  # the loader is the same
    assert rows[FAST][0] == rows[OURS][0]  # and here the step
    assert all(step > 0 and load > 0 for step, load, _ in rows.values())
    assert rows[TRANSFORM][0] != rows[OURS][0]


def test_flops_are_those_of_the_model() -> None:
    # 1 layer: 12 width² parameters on 5 picture tokens and 16 text tokens, patches and projections; attention on top.
    layer, width = 12 * 16 * 16, 16
    least = 2 * ((5 + 16) * layer + 4 * 3 * 16 * 16 * width + 2 * 16 * 16)
    assert 3 * least <= train_flops("small", MODEL) < 4 * least


@pytest.mark.slow
def test_train_py_is_timed(tmp_path: Path) -> None:
    shards = people_shards(tmp_path, [80, 80])
    found = run_ours(Task(tuple(shards), "small", MODEL, 16, steps=3, warmup=1, threads=1), ["data.workers=0"])
    assert found.images > 0
    assert len(found.steps) == 3
    assert 0 <= found.wait <= 1
    assert 0 < found.cpu < 1000


def test_a_trainer_that_can_t_start_is_told(tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho no such flag >&2\nexit 2\n")
    python.chmod(0o755)
    with pytest.raises(UserError, match="no such flag"):
        run_open_clip(Task(("a.tar",), "small", MODEL, 16, 3, 1), python)
