"""Many runs, each killed a few times on its way, held against one that nothing disturbed."""

import ctypes
import ctypes.util
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from models.checkpoint import list_checkpoints, load_checkpoint
from tests.kills.attempts import Death, run_once
from tests.launching import make_world, measured, tiny_overrides

KILLS_PER_RUN = 3
FULL = 40 << 20  # bytes of the file system that gets full
WORLDS = (1, 1, 2)


@dataclass
class Report:
    """What became of one run.

    Attributes:
        seed: of the run.
        world: number of its ranks.
        deaths: when it was killed, or that its disk was full.
        faults: in what it differs from the undisturbed run.
    """

    seed: int
    world: int
    deaths: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)


class Campaign:
    """Undisturbed runs on one and two ranks, and disturbed ones beside them.

    Args:
        folder: where all of it lies.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.world = make_world(folder / "world")
        self.events: dict[int, int] = {}
        self.seconds = 4.0
        for ranks in sorted(set(WORLDS)):
            runs = self._place(f"straight-{ranks}")
            statuses, said, events = run_once(self._overrides(runs, ranks), runs, ranks)
            if any(statuses):
                raise RuntimeError(f"the undisturbed run failed: {statuses}\n{said[-3000:]}")
            self.events[ranks] = events

    def _place(self, name: str) -> Path:
        runs = self.folder / name / "runs"
        runs.mkdir(parents=True)
        return runs

    def _overrides(self, runs: Path, ranks: int) -> list[str]:
        batch = 16 // ranks
        more = ["name=a", "checkpoint.every_steps=2", f"data.batch_size={batch}", "schedule.epochs=2"]
        taken = {one.split("=")[0] for one in more}
        return [*(one for one in tiny_overrides(self.world, runs) if one.split("=")[0] not in taken), *more]

    def disturb(self, seed: int) -> Report:
        """One run that is killed `KILLS_PER_RUN` times, or until it has ended."""
        rng = np.random.default_rng(seed)
        report = Report(seed, WORLDS[int(rng.integers(len(WORLDS)))])
        runs = self._place(f"run-{seed}")
        for _ in range(KILLS_PER_RUN):
            death = self._draw(rng, report.world)
            statuses, said, _ = self._go_on(runs, report.world, death)
            if not any(statuses):
                break
            report.deaths.append(str(death))
            self._check_attempt(statuses, said, death, report)
        self._finish(runs, report)
        return report

    def fill(self, seed: int) -> Report:
        """One run whose disk gets full; room is made, and it goes on. Needs the right to mount a file system."""
        rng = np.random.default_rng(seed)
        report = Report(seed, 1)
        runs = self._place(f"full-{seed}")
        with small_disk(runs, FULL):
            free = int(rng.integers(1 << 12, FULL // 4))
            filler = runs.parent / "runs" / "filler"
            filler.write_bytes(b"\0" * max(0, FULL - free))
            statuses, said, _ = self._go_on(runs, 1, None)
            if any(statuses):
                report.deaths.append(f"disk full with {free:,} bytes free")
                if statuses[0] not in (1, 2) or "error: " not in said or "Traceback" in said:
                    report.faults.append(f"a full disk ended in status {statuses[0]}: {said.strip()[-800:]}")
            filler.unlink()
            self._finish(runs, report)
        return report

    def _draw(self, rng: np.random.Generator, world: int) -> Death:
        rank = int(rng.integers(world))
        if rank == 0 and rng.random() < 0.7:
            return Death(event=int(rng.integers(1, max(self.events[world], 2))), rank=rank)
        return Death(seconds=float(rng.uniform(0, self.seconds)), rank=rank)

    def _go_on(self, runs: Path, world: int, death: Death | None) -> tuple[list[int], str, int]:
        """Start, or go on where there is something to go on with, as a person or a batch system would."""
        if (runs / "a/config.yaml").is_file():
            arguments = ["name=a", f"runs={runs}", "resume=true"]
        else:
            arguments = self._overrides(runs, world)
        return run_once(arguments, runs, world, death)

    def _check_attempt(self, statuses: list[int], said: str, death: Death, report: Report) -> None:
        if statuses[death.rank] != -9:
            report.faults.append(f"{death}: status {statuses} before it could be killed: {said.strip()[-800:]}")

    def _finish(self, runs: Path, report: Report) -> None:
        """Let it end undisturbed, and hold it against the run that nothing disturbed."""
        statuses, said, _ = self._go_on(runs, report.world, None)
        if any(statuses) and "nothing left to do" not in said:
            report.faults.append(f"it did not end: {statuses}: {said.strip()[-1500:]}")
            return
        straight = self.folder / f"straight-{report.world}/runs"
        if measured(runs / "a") != measured(straight / "a"):
            report.faults.append("metrics differ")
        report.faults += differing_weights(runs / "a", straight / "a")
        left = names(runs) - names(straight)
        lacking = names(straight) - names(runs)
        if left:
            report.faults.append(f"left over: {', '.join(sorted(left)[:8])}")
        if lacking:
            report.faults.append(f"missing: {', '.join(sorted(lacking)[:8])}")
        if not report.faults:
            shutil.rmtree(runs.parent, ignore_errors=True)


def names(runs: Path) -> set[str]:
    """All files below a folder."""
    return {path.relative_to(runs).as_posix() for path in runs.rglob("*") if path.is_file()}


def differing_weights(run: Path, other: Path) -> list[str]:
    """What is not bit for bit equal in the last checkpoints of two runs."""
    one, two = (list_checkpoints(folder / "checkpoints") for folder in (run, other))
    if not one or not two or one[-1].name != two[-1].name:
        return [f"checkpoints differ: {[path.name for path in one]} and {[path.name for path in two]}"]
    weights, expected = (load_checkpoint(paths[-1])["model"] for paths in (one, two))
    return [f"weights differ: {name}" for name in expected if not torch.equal(weights[name], expected[name])][:3]


@contextmanager
def small_disk(folder: Path, size: int) -> Iterator[None]:
    """A file system in memory of so many bytes at a folder.

    Raises:
        PermissionError: this user may not mount one.
    """
    libc = ctypes.CDLL(ctypes.util.find_library("c"), use_errno=True)
    target = os.fsencode(folder)
    if libc.mount(b"tmpfs", target, b"tmpfs", 0, f"size={size}".encode()):
        raise PermissionError(ctypes.get_errno(), "no file system can be mounted here", str(folder))
    try:
        yield
    finally:
        libc.umount2(target, 2)  # MNT_DETACH
