"""Train side by side with open_clip's own trainer, and measure what each part of this one gains.

    python scripts/bench_train.py --venv ~/open-clip-venv --shards '../shared/data/flickr8k/train-{00000..00005}.tar'

Three measurements, chosen by --only, each in rounds whose runs follow one another; ratios are taken within a round,
of images per second and of CPU time per image, which neighbours on a busy machine disturb less:

equal    Nothing rejected; the same shards, model, batch, workers, threads and precision for both trainers. train.py
         also without the padding behind captions, its default, which open_clip's trainer computes.
default  40 % of the samples rejected. open_clip_train with the flags that it requires and no others, rejecting in a
         stage at the end of its pipeline; train.py with the keys that it requires and no others. Beside them open_clip
         with better flags for a CPU and with rejection before decoding, and train.py with fast decoding. Ratios are
         given to open_clip's defaults (fp16 on a CPU, which has no instructions for it) and to its best run.
parts    What each of captions without padding, fused AdamW, plain attention, uint8 batches and fast decoding gains, in
         CPU seconds (CPU only).

On a machine with a GPU: --device cuda --model ViT-B-32 --precision bf16 (--compile), which adds the share of the peak
rate of floating-point operations that was used (MFU), where whole texts are computed.
"""

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

if __name__ == "__main__":  # the project's folder, whichever folder the command runs in
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import conf.app.runtime  # noqa: F401  # isort: skip  # before torch; the trainers do not inherit it

import torch

from balance.common.terminal import Table, terminal
from balance.labels.annotate import annotate_shards
from balance.labels.annotators import build_annotator
from balance.stream.shards import expand_shards
from conf.app.command import run_command
from scripts.bench_mfu import peak_flops, train_flops
from scripts.bench_parts import gains, measure_parts, prepare
from scripts.bench_photos import make_photo_shards
from scripts.bench_trainers import Speed, Task, make_venv, run_open_clip, run_ours

SMALL: dict[str, Any] = {
    "embed_dim": 128,
    "vision_cfg": {"image_size": 112, "layers": 4, "width": 128, "head_width": 32, "patch_size": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 128, "heads": 4, "layers": 3},
}
AMP = {"bf16": "amp_bf16", "fp32": "fp32", "fp16": "amp"}  # open_clip's names
Runs = dict[str, Callable[[], Speed]]


def main(arguments: list[str]) -> None:
    args = read_arguments(arguments)
    with tempfile.TemporaryDirectory() as scratch:
        if args.shards:
            shards = [os.path.abspath(path) for path in expand_shards(args.shards, "--shards")]
        else:
            shards = make_photo_shards(Path(args.folder or scratch), 4, args.pictures // 4)
        config = SMALL if args.model == "small" else None
        task = Task(tuple(shards), args.model, config, args.batch, args.steps, args.warmup, args.device)
        raw: dict[str, Any] = {"arguments": vars(args), "cores": os.cpu_count(), "load before": os.getloadavg()}
        for wanted in args.only:
            if wanted == "parts":
                raw[wanted] = parts(args, shards, Path(scratch))
            else:
                python = make_venv(Path(args.venv).expanduser())
                runs = equal(task, python, args) if wanted == "equal" else default(task, python, args.keep)
                raw[wanted] = compare(wanted, runs, args, task)
        raw["load after"] = os.getloadavg()
    print(
        f"Load {raw['load before'][0]:.1f} at the start, {raw['load after'][0]:.1f} at the end, {os.cpu_count()} cores"
    )
    if args.out:
        Path(args.out).write_text(json.dumps(raw, indent=1))


def read_arguments(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--only", nargs="+", default=["equal", "default", "parts"], choices=["equal", "default", "parts"])
    add("--venv", default="bench-venv", help="folder of open_clip's environment, made if it is not there")
    add("--shards", help="folder, glob or pattern; photos are generated without it")
    add("--folder", help="where generated shards are kept")
    add("--pictures", type=int, default=4000, help="how many to generate")
    add("--model", default="small", help="an open_clip name; small: 4 + 3 layers of width 128, 112 px, 77 tokens")
    add("--batch", type=int, default=64)
    add("--workers", type=int, default=1, help="loader workers of both, for `equal`")
    add("--threads", type=int, default=1, help="threads of both trainers on a CPU, for `equal`")
    add("--steps", type=int, default=12, help="timed steps of a run")
    add("--warmup", type=int, default=4, help="steps before them")
    add("--rounds", type=int, default=3)
    add("--keep", type=float, default=0.6, help="share of samples accepted, for `default`")
    add("--device", default="cpu", choices=["cpu", "cuda"])
    add("--precision", default="bf16", choices=list(AMP), help="of both, for `equal`")
    add("--compile", action="store_true", help="torch.compile in both")
    add("--fast-decode", action="store_true", help="in train.py, for `equal`")
    add("--peak-tflops", type=float, help="of the device at this precision, for MFU; known for common GPUs")
    add("--out", help="file for all steps of all rounds, JSON")
    args = parser.parse_args(arguments)
    if args.device == "cuda":
        if not torch.cuda.is_available():
            parser.error("--device cuda, but torch sees no GPU here")
        args.only = [wanted for wanted in args.only if wanted == "equal"]
    return args


TRIMMED = "train.py"


def equal(task: Task, python: Path, args: argparse.Namespace) -> Runs:
    """Both trainers with everything equal."""
    if task.device == "cpu":
        task = replace(task, threads=args.threads)
    theirs = ["--workers", str(args.workers), "--precision", AMP[args.precision]]
    ours = [f"data.workers={args.workers}", f"precision={args.precision}", "optim.grad_clip=null"]
    if args.compile:
        theirs, ours = [*theirs, "--torchcompile"], [*ours, "compile=true"]
    if args.fast_decode:
        ours.append("data.fast_decode=true")
    return {
        "open_clip_train": lambda: run_open_clip(task, python, theirs),
        "train.py, model.trim_text=false": lambda: run_ours(task, [*ours, "model.trim_text=false"]),
        TRIMMED: lambda: run_ours(task, ours),
    }


def default(task: Task, python: Path, keep: float) -> Runs:
    """What a user gets who knows neither trainer's flags; and who does."""
    slow = replace(task, steps=min(2, task.steps), warmup=1)  # fp16 on a CPU takes minutes
    bf16, fp32, fast = ["--precision", "amp_bf16"], ["--precision", "fp32"], ["data.fast_decode=true"]
    tuned = [*bf16, "--workers", "1"]
    return {
        "open_clip_train, its defaults (amp: fp16)": lambda: run_open_clip(slow, python, [], keep, "after"),
        "open_clip_train, --precision fp32": lambda: run_open_clip(task, python, fp32, keep, "after"),
        "open_clip_train, amp_bf16": lambda: run_open_clip(task, python, bf16, keep, "after"),
        "open_clip_train, amp_bf16, 1 worker, rejects before": lambda: run_open_clip(
            task, python, tuned, keep, "before"
        ),
        "train.py, its defaults": lambda: run_ours(task, [], keep),
        "train.py, data.fast_decode=true": lambda: run_ours(task, fast, keep),
    }


def compare(title: str, runs: Runs, args: argparse.Namespace, task: Task) -> list[dict[str, Any]]:
    """Run all in turn, round after round, and print what came out."""
    rounds: list[dict[str, Speed]] = []
    for number in range(args.rounds):
        order = list(runs)[number % len(runs) :] + list(runs)[: number % len(runs)]
        found = {}
        for name in order:
            found[name] = runs[name]()
            note = f"{title}, round {number + 1}: {name}: {found[name].images:.1f} images/s"
            print(note, file=sys.stderr, flush=True)
        rounds.append(found)
    flops = train_flops(task.model, task.config) if args.device == "cuda" else None
    table = Table(title=f"{title}: images/s, median of {args.rounds} rounds", title_justify="left")
    names = list(runs)
    theirs = [name for name in names if name.startswith("open_clip")]
    for column in (
        "trainer",
        "images/s",
        "times its defaults",
        "times its best",
        "waits for data",
        "CPU ms/image",
        "less CPU",
        "MFU",
    ):
        if flops is not None or column != "MFU":
            table.add_column(column, justify="left" if column == "trainer" else "right")
    for name in names:
        rate = median(found[name].images for found in rounds)
        first = [found[name].images / found[names[0]].images for found in rounds]
        best = [found[name].images / max(found[other].images for other in theirs) for found in rounds]
        row = [name, f"{rate:,.1f}", _spread(first), _spread(best)]
        row.append(f"{median(found[name].wait for found in rounds):.0%}")
        costs = [found[names[0]].cpu / found[name].cpu for found in rounds]
        row += [f"{median(found[name].cpu for found in rounds):.1f}", _spread(costs)]
        if flops is not None:
            share = rate * flops / peak_flops(args.precision, args.peak_tflops)
            row.append("" if name == TRIMMED else f"{share:.1%}")  # fewer operations than are counted
        table.add_row(*row)
    terminal(no_color=True, width=170).print(table)
    return [{name: vars(speed) for name, speed in found.items()} for found in rounds]


def _spread(ratios: list[float]) -> str:
    """Median, smallest and largest over rounds."""
    return f"{median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"


def parts(args: argparse.Namespace, shards: list[str], scratch: Path) -> Any:
    """Measure and print what each part gains."""
    annotator = build_annotator({"name": "bench", "sources": [{"kind": "captions", "attributes": ["gender"]}]})
    files = annotate_shards(shards, annotator, scratch / "attributes", progress=False)
    config = SMALL if args.model == "small" else None
    bf16 = args.precision == "bf16"
    rounds = measure_parts(prepare(shards, files, args.model, config, args.batch, 3, bf16), args.rounds)
    table = Table(title="parts: CPU ms per image, one thread; what is changed, one at a time", title_justify="left")
    for column in ("changed", "step", "load", "step and load, times as it is"):
        table.add_column(column, justify="left" if column == "changed" else "right")
    for name, step, load, times in gains(rounds):
        table.add_row(name, f"{step:.2f}", f"{load:.2f}", f"{times:.2f}")
    terminal(no_color=True, width=120).print(table)
    return rounds


if __name__ == "__main__":
    run_command(main)
