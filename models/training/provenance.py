"""Where a run comes from: code, libraries, machine, data and plan, written into its folder when it starts."""

import json
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from balance.files import write_whole

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = (
    "counterbalance",
    "torch",
    "torchvision",
    "open_clip_torch",
    "webdataset",
    "accelerate",
    "numpy",
    "hydra-core",
    "wandb",
)


def write_provenance(folder: Path, shards: Sequence[str], plan: str, device: torch.device, processes: int) -> None:
    """Write `provenance.json`, or add an attempt to that of a resumed run.

    Args:
        folder: the run's folder.
        shards: addresses of the training shards.
        plan: hash of the plan, which stands for the data's labels and the balance settings together.
        device: what the first process computes on.
        processes: how many train.
    """
    path = folder / "provenance.json"
    attempt = f"{datetime.now(UTC):%Y-%m-%d %H:%M UTC}: {shlex.join(sys.argv)}"
    attempts = []
    if path.is_file():
        attempts = json.loads(path.read_text(encoding="utf-8"))["attempts"]
    facts = {
        "commit": commit(),
        "shards": f"{len(shards)}: {shards[0]}" + (f" … {shards[-1]}" if len(shards) > 1 else ""),
        "data and plan": plan,
        "device": describe(device),
        "processes": processes,
        "python": platform.python_version(),
        **{package: _version(package) for package in PACKAGES},
        "attempts": [*attempts, attempt],
    }
    write_whole(path, json.dumps(facts, indent=1, ensure_ascii=False))


def commit() -> str:
    """The checkout's commit, with a word on changes that are not committed; empty outside a checkout."""
    try:
        found = _git("rev-parse", "--short=12", "HEAD")
        return f"{found}, with changes" if _git("status", "--porcelain", "--untracked-files=no") else found
    except (OSError, subprocess.SubprocessError):
        return ""


def describe(device: torch.device) -> str:
    """The device by name, and the cores at hand."""
    cores = f"{os.cpu_count()} cores"
    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)}, {cores}"
    return f"{platform.machine()} {device.type}, {cores}, {torch.get_num_threads()} threads a process"


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(ROOT), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
