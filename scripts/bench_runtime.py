"""Measure what the settings of `conf/app/runtime.py` gain: threads that go to sleep, and memory that is kept.

    python scripts/bench_runtime.py rounds=5

Two kinds of work with `threads` threads, each in processes of their own that follow one another: training steps of a
small CLIP model in bf16, and batches of pictures through EfficientNet-Lite0 in float32, as evaluation computes. Each
with the system's settings, with either of ours, and with both; alone, and beside a process that keeps one core busy, as
a loader worker does. Images per second, median of all rounds; ratios to the system's settings are taken in a round.
Settings: rounds, threads, seconds (of each measurement).
"""

import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

if __name__ == "__main__":  # the project's folder, whichever folder the command runs in
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))


from balance.common.terminal import Table, terminal
from balance.errors import UserError
from conf.app.command import run_command, split_options

OPTIONS: dict[str, Any] = {"rounds": 3, "threads": os.cpu_count() or 1, "seconds": 5}
SETTINGS = ("the system's", "sleep", "memory", "both")
WORK = ("training step", "conv net")
MEASURE = "--measure"


def work_of(kind: str) -> tuple[Callable[[], object], int]:
    """One batch of the work, and its images."""
    import open_clip
    import timm
    import torch

    from scripts.bench_train import SMALL

    torch.manual_seed(0)
    if kind == "conv net":
        tower = timm.create_model("tf_efficientnet_lite0").eval().to(memory_format=torch.channels_last)
        pictures = torch.randn(16, 3, 224, 224).to(memory_format=torch.channels_last)

        def look() -> object:
            with torch.no_grad():
                return tower(pictures)

        return look, 16
    vision, text = open_clip.CLIPVisionCfg(**SMALL["vision_cfg"]), open_clip.CLIPTextCfg(**SMALL["text_cfg"])
    model = open_clip.CLIP(SMALL["embed_dim"], vision, text)
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    batch, targets = torch.randn(64, 3, 112, 112), torch.arange(64)
    texts = torch.randint(1, 400, (64, SMALL["text_cfg"]["context_length"]))

    def step() -> object:
        with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH), torch.autocast("cpu", torch.bfloat16):
            images, words, scale = model(batch, texts)[:3]
            logits = scale * images @ words.T
        loss = torch.nn.functional.cross_entropy(logits.float(), targets)
        loss.backward()
        optimizer.step()
        return optimizer.zero_grad()

    return step, 64


def measure(kind: str, setting: str, threads: int, seconds: float) -> float:
    """Images per second; runs in a process whose environment is that of the setting."""
    if setting in ("memory", "both"):
        import conf.app.runtime  # noqa: F401
    import torch

    torch.set_num_threads(threads)
    run, images = work_of(kind)
    for _ in range(8):
        run()
    count, begin = 0, time.perf_counter()
    while time.perf_counter() - begin < seconds:
        run()
        count += images
    return count / (time.perf_counter() - begin)


def measured(kind: str, setting: str, options: dict[str, Any]) -> float:
    """The same in a fresh process."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("GOMP_", "OMP_", "MALLOC_"))}
    if setting in ("sleep", "both"):
        from conf.app.runtime import SPINS

        kept["GOMP_SPINCOUNT"] = SPINS
    else:
        kept["GOMP_SPINCOUNT"] = "300000"  # the library's own figure, which importing our settings leaves as it is
    if setting not in ("memory", "both"):
        kept["MALLOC_PERTURB_"] = "0"  # glibc's own value; where any is set, importing our settings leaves memory alone
    command = [sys.executable, __file__, MEASURE, kind, setting, str(options["threads"]), str(options["seconds"])]
    done = subprocess.run(command, env=kept, capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"Measuring {kind} failed: {done.stderr.strip()[-500:]}")
    return float(done.stdout)


def burn() -> None:
    """Keep a core busy."""
    while True:
        pass


def main(arguments: list[str]) -> None:
    if arguments[:1] == [MEASURE]:
        kind, setting, threads, seconds = arguments[1:]
        print(measure(kind, setting, int(threads), float(seconds)))
        return
    options, rest = split_options(arguments, OPTIONS)
    if rest:
        raise UserError(f"Unknown setting {rest[0]!r}; there are: {', '.join(OPTIONS)}.")
    print(f"{options['threads']} threads, load {os.getloadavg()[0]:.1f}")
    table = Table("work", "beside", *(f"{setting}: images/s, times the system's" for setting in SETTINGS))
    for kind in WORK:
        for busy in (False, True):
            neighbour = multiprocessing.get_context("spawn").Process(target=burn, daemon=True)
            if busy:
                neighbour.start()
            rounds = [{one: measured(kind, one, options) for one in SETTINGS} for _ in range(options["rounds"])]
            if busy:
                neighbour.terminate()
            cells = []
            for one in SETTINGS:
                ratios = sorted(found[one] / found[SETTINGS[0]] for found in rounds)
                rate = median(found[one] for found in rounds)
                cells.append(f"{rate:.0f}, {median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})")
            table.add_row(kind, "a busy core" if busy else "nothing", *cells)
    terminal().print(table)


if __name__ == "__main__":
    run_command(main, __doc__)
