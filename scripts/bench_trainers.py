"""Run two trainers on the same task and read their speed: open_clip's own, as released, and this project's."""

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from balance.errors import UserError

ROOT = Path(__file__).resolve().parent.parent
# open_clip_train reads shards with WebDataset as it was before 0.2.96.
PACKAGES = ("open_clip_torch[training]==3.3.0", "webdataset==0.2.86")

RUNNER = '''
"""Train with open_clip_train.main, on a model configuration of our own and with samples rejected."""
import sys, zlib
import open_clip, webdataset
from open_clip_train import data, main

config, keep, when = sys.argv[1], float(sys.argv[2]), sys.argv[3]
if config:
    open_clip.add_model_config(config)
accepted = lambda sample: zlib.crc32(sample["__key__"].encode()) % 10000 < 10000 * keep
whole, to_tuple = data.filter_no_caption_or_no_image, webdataset.to_tuple
if when == "before":  # where open_clip drops samples without a caption: nothing is decoded yet
    data.filter_no_caption_or_no_image = lambda sample: whole(sample) and accepted(sample)
if when == "after":   # at the end of the pipeline, which is where a stage of one's own is added
    webdataset.to_tuple = lambda *names: lambda source: to_tuple(*names)(webdataset.select(accepted)(source))
main.main(sys.argv[4:])
'''
STEP = re.compile(r"Data \(t\): ([\d.]+) Batch \(t\): ([\d.]+), ([\d.e+]+)/s,")


@dataclass(frozen=True)
class Task:
    """What both trainers do.

    Attributes:
        shards: paths of the tar files.
        model: an open_clip name, or one made up for `config`.
        config: an open_clip `model_cfg`, or None for the model that open_clip has by that name.
        batch: samples in a step.
        steps: steps that are timed.
        warmup: steps before them: filling buffers, choosing kernels, compiling.
        device: cpu or cuda.
        threads: of the trainer on a CPU; None leaves the choice to it.
    """

    shards: tuple[str, ...]
    model: str
    config: Mapping[str, Any] | None
    batch: int
    steps: int
    warmup: int
    device: str = "cpu"
    threads: int | None = None

    @property
    def samples(self) -> int:
        """Samples of the whole run."""
        return self.batch * (self.steps + self.warmup)

    def environment(self) -> dict[str, str]:
        """Environment of a trainer."""
        found = {key: value for key, value in os.environ.items() if key not in ("OMP_NUM_THREADS", "PYTHONPATH")}
        if self.threads is not None:
            found["OMP_NUM_THREADS"] = str(self.threads)
        return found


@dataclass(frozen=True)
class Speed:
    """What a trainer reached: images per second, share of time spent waiting for data, and the log's last lines."""

    images: float
    wait: float
    steps: list[tuple[float, float]] = field(default_factory=list)  # seconds of each timed step, and of its waiting


def speed(task: Task, steps: list[tuple[float, float]], what: str, log: str) -> Speed:
    """Sum up the timed steps.

    Raises:
        UserError: the trainer did not come to its end.
    """
    steps = steps[task.warmup : task.warmup + task.steps]
    if len(steps) < task.steps:
        last = "\n".join(log.splitlines()[-15:])
        raise UserError(f"{what} made {len(steps)} of {task.steps} timed steps; its last words:\n{last}")
    seconds = sum(step for step, _ in steps)
    return Speed(task.batch * len(steps) / seconds, sum(wait for _, wait in steps) / seconds, steps)


def make_venv(folder: Path) -> Path:
    """An environment with the released open_clip trainer, made if it is not there; its Python."""
    python, done = folder / "bin" / "python", folder / ".open_clip"
    if not done.exists() or done.read_text() != str(PACKAGES):
        print(f"Installing {', '.join(PACKAGES)} into {folder}: some minutes and 6 GB, once.", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", *PACKAGES], check=True)
        done.write_text(str(PACKAGES))
    return python


def run_open_clip(
    task: Task, python: Path, options: Sequence[str] = (), keep: float = 1.0, when: str = "never"
) -> Speed:
    """Train with open_clip_train.main.

    Args:
        task: the task.
        python: of the environment from `make_venv`.
        options: flags of open_clip_train.
        keep: share of samples that is accepted.
        when: samples are rejected `before` decoding, `after` it, or `never`.

    Raises:
        UserError: it fails.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "run.py").write_text(RUNNER)
        config = folder / f"{task.model}.json"
        if task.config is not None:
            config.write_text(json.dumps(task.config))
        shards = "::".join(task.shards)  # open_clip's way to name several
        flags = ["--train-data", shards, "--dataset-type", "webdataset", "--train-num-samples", str(task.samples)]
        flags += ["--batch-size", str(task.batch), "--epochs", "1", "--model", task.model, "--device", task.device]
        flags += ["--log-every-n-steps", "1", "--save-frequency", "0", "--logs", str(folder), "--name", "run", *options]
        command = [str(python), "run.py", str(config) if task.config is not None else "", str(keep), when, *flags]
        done = subprocess.run(command, cwd=folder, env=task.environment(), capture_output=True, text=True)
    log = done.stdout + done.stderr
    steps = [(task.batch / float(rate), float(data)) for data, _, rate in STEP.findall(done.stderr)]
    return speed(task, steps, "open_clip_train", log)


def run_ours(task: Task, options: Sequence[str] = (), keep: float = 1.0) -> Speed:
    """Train with train.py.

    Args:
        task: the task.
        options: overrides of the configuration.
        keep: share of samples that balancing accepts; 1 does not balance.

    Raises:
        UserError: it fails.
    """
    with tempfile.TemporaryDirectory() as name:
        overrides = [f"name=bench runs={name} data=wds attributes=captions track=none device={task.device}"]
        overrides += [f"data.batch_size={task.batch} schedule.epochs=1 schedule.epoch_samples={task.samples}"]
        overrides += ["track.every=1 eval.evaluators={} eval.sets={} model=open_clip balance=" + _balance(keep)]
        words = [*" ".join(overrides).split(), f"model.name={task.model}", f"data.train=[{','.join(task.shards)}]"]
        if task.config is not None:
            words.append(f"model.config={json.dumps(task.config)}".replace('"', ""))
        command = [sys.executable, "train.py", *words, *options]
        done = subprocess.run(command, cwd=ROOT, env=task.environment(), capture_output=True, text=True)
        log, file = done.stdout + done.stderr, Path(name, "bench", "metrics.jsonl")
        rows = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    rates = [row["value"] for row in rows if row["name"] == "train/samples_per_second"]
    waits = [row["value"] for row in rows if row["name"] == "train/data_wait"]
    steps = [(task.batch / rate, wait * task.batch / rate) for rate, wait in zip(rates, waits, strict=True)]
    return speed(task, steps, "train.py", log)


def _balance(keep: float) -> str:
    return "none" if keep == 1 else f"m4 balance.keep={keep}"
