"""Run two trainers on the same task and read their speed: open_clip's own, as released, and this project's."""

import contextlib
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

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
        ours = ("OMP_NUM_THREADS", "GOMP_SPINCOUNT", "PYTHONPATH")  # each trainer starts from the system's settings
        found = {key: value for key, value in os.environ.items() if key not in ours}
        if self.threads is not None:
            found["OMP_NUM_THREADS"] = str(self.threads)
        return found


@dataclass(frozen=True)
class Speed:
    """What a trainer reached.

    Attributes:
        images: per second of the clock.
        wait: share of time spent waiting for data.
        cpu: CPU milliseconds per image, of the trainer and its loader workers; a busy machine disturbs it little.
        steps: as below.
    """

    images: float
    wait: float
    cpu: float
    steps: list[tuple[float, float]] = field(default_factory=list)  # seconds of each timed step, and of its waiting


class _CpuWatch:
    """CPU seconds of a process and all it started, noted at the ends of the warm-up and of the timed steps."""

    def __init__(self, task: Task) -> None:
        self.marks = (task.warmup, task.warmup + task.steps)
        self.images = task.batch * task.steps
        self.noted: dict[int, float] = {}

    def run(self, command: Sequence[str], folder: Path, task: Task, done: Callable[[], int]) -> str:
        """Run a command to its end, asking `done` for the number of steps; what it printed."""
        with tempfile.TemporaryFile("w+") as log:
            process = psutil.Popen(command, cwd=folder, env=task.environment(), stdout=log, stderr=subprocess.STDOUT)
            try:
                while process.poll() is None:
                    steps = done()
                    for mark in self.marks:
                        if steps >= mark and mark not in self.noted:
                            self.noted[mark] = _cpu_seconds(process)
                    time.sleep(0.02)
            finally:
                if process.poll() is None:
                    process.kill()
            log.seek(0)
            return log.read()

    def per_image(self) -> float:
        """CPU milliseconds per image of the timed steps; NaN where the run ended before they were seen."""
        if len(self.noted) < len(self.marks):
            return float("nan")
        first, last = (self.noted[mark] for mark in self.marks)
        return 1000 * (last - first) / self.images


def _cpu_seconds(process: psutil.Process) -> float:
    """Of a process, its ended children, and those that live."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return sum(sum(one.cpu_times()[:4]) for one in (process, *process.children(recursive=True)))
    return float("nan")


def speed(task: Task, steps: list[tuple[float, float]], what: str, log: str, cpu: float) -> Speed:
    """Sum up the timed steps.

    Raises:
        UserError: the trainer did not come to its end.
    """
    steps = steps[task.warmup : task.warmup + task.steps]
    if len(steps) < task.steps:
        last = "\n".join(log.splitlines()[-15:])
        raise UserError(f"{what} made {len(steps)} of {task.steps} timed steps; its last words:\n{last}")
    seconds = sum(step for step, _ in steps)
    return Speed(task.batch * len(steps) / seconds, sum(wait for _, wait in steps) / seconds, cpu, steps)


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
        file, watch = folder / "run" / "out.log", _CpuWatch(task)  # open_clip writes its log there, too
        log = watch.run(command, folder, task, lambda: len(STEP.findall(_text(file))))
        found = STEP.findall(_text(file))
    steps = [(task.batch / float(rate), float(data)) for data, _, rate in found]
    return speed(task, steps, "open_clip_train", log, watch.per_image())


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
        file, watch = Path(name, "bench", "metrics.jsonl"), _CpuWatch(task)
        log = watch.run(command, ROOT, task, lambda: _text(file).count('"train/samples_per_second"'))
        rows = [json.loads(line) for line in _text(file).splitlines()]
    rates = [row["value"] for row in rows if row["name"] == "train/samples_per_second"]
    waits = [row["value"] for row in rows if row["name"] == "train/data_wait"]
    steps = [(task.batch / rate, wait * task.batch / rate) for rate, wait in zip(rates, waits, strict=True)]
    return speed(task, steps, "train.py", log, watch.per_image())


def _text(file: Path) -> str:
    return file.read_text(encoding="utf-8") if file.exists() else ""


def _balance(keep: float) -> str:
    return "none" if keep == 1 else f"m4 balance.keep={keep}"
